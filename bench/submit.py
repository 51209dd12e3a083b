"""What a durable acknowledgement costs: jobs a second through the hub, beside bare commits to the same disk.

A bare commit is one row in a SQLite file with the hub's settings (WAL, synchronous=FULL): no hub that keeps its word on
this disk, one job at a time, can be faster than that. Rounds alternate, and medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from hub.config import HubConfig
from hub.service import serving
from sonic.client import AsyncSonicClient
from sonic.v1 import job_service_pb2, jobs_pb2
from sonic_runtime import models
from sonic_runtime.models.samples import fetch_samples


def bare_commits_per_s(folder: Path, count: int) -> float:
    database = sqlite3.connect(folder / "bare.db", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table if not exists jobs (job_id text primary key, spec blob)")
    began = time.perf_counter()
    for _ in range(count):
        database.execute("insert into jobs values (?, ?)", (uuid.uuid4().hex, b"0" * 200))
    took_s = time.perf_counter() - began
    database.close()
    return count / took_s


async def per_s(count: int, submit: Callable[[int], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await submit(count)
    return count / (time.perf_counter() - began)


async def measure(folder: Path, count: int, rounds: int) -> dict[str, float]:
    samples = fetch_samples(models.root() / "samples")
    config = HubConfig(insecure=True, listen="127.0.0.1:0", http_listen="127.0.0.1:0", data_dir=folder / "hub")
    rates: dict[str, list[float]] = {"bare": [], "one_by_one": [], "sixteen_callers": [], "batch": []}
    async with serving(config) as hub, AsyncSonicClient(hub.grpc_address, "bench", insecure=True) as client:
        portrait, voice = await client.upload(samples.portrait), await client.upload(samples.voice)

        def request() -> job_service_pb2.SubmitJobRequest:
            spec = jobs_pb2.JobSpec(portrait_sha256=portrait.sha256, voice_sha256=voice.sha256)
            return job_service_pb2.SubmitJobRequest(idempotency_key=uuid.uuid4().hex, spec=spec)

        async def one_by_one(number: int) -> None:
            for _ in range(number):
                await client.submit_batch([request()])

        async def sixteen_callers(number: int) -> None:
            await asyncio.gather(*(one_by_one(number // 16) for _ in range(16)))

        async def batch(number: int) -> None:
            await client.submit_batch([request() for _ in range(number)])

        for _ in range(rounds):
            rates["bare"].append(await asyncio.to_thread(bare_commits_per_s, folder, count))
            for way in (one_by_one, sixteen_callers, batch):
                rates[way.__name__].append(await per_s(count, way))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {f"{name}_per_s": round(rate, 1) for name, rate in medians.items()} | {
        f"{name}_to_bare": round(rate / medians["bare"], 3) for name, rate in medians.items() if name != "bare"
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=320, help="jobs of a round (default: 320)")
    options.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), given.jobs, given.rounds))))


if __name__ == "__main__":
    main()
