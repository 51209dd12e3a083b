"""Procrastinate with PostgreSQL: the no-op task, and a caller of it. Runs in the peers' environment.

Procrastinate tells nobody that a job has ended. The caller looks for ended jobs every few milliseconds to keep so many
in flight; latencies end at the time that PostgreSQL noted for the success, which does them no wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any

import procrastinate

from bench.loads import pace

DSN = os.environ.get("BENCH_POSTGRESQL", "")
LOOK_EVERY_S = 0.003
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DSN))


@app.task(name="noop")
async def noop(key: str) -> None:
    pass


class Caller:
    """Submits jobs, and learns from one query for all which of them have ended."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.submitted_s: dict[int, float] = {}

    async def one(self) -> None:
        began_s = time.time()
        job_id = await noop.defer_async(key="0" * 32)
        self.submitted_s[job_id] = began_s
        self._waiting[job_id] = asyncio.get_running_loop().create_future()
        await self._waiting[job_id]

    async def look(self) -> None:
        query = "SELECT id FROM procrastinate_jobs WHERE id = ANY(%(ids)s) AND status = 'succeeded'"
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._waiting:
                for row in await app.connector.execute_query_all_async(query, ids=list(self._waiting)):
                    self._waiting.pop(row["id"]).set_result(None)

    async def committed_ms(self) -> list[float]:
        query = (
            "SELECT job_id, extract(epoch FROM at)::float8 AS at_s FROM procrastinate_events"
            " WHERE type = 'succeeded' AND job_id = ANY(%(ids)s)"
        )
        rows = await app.connector.execute_query_all_async(query, ids=list(self.submitted_s))
        return [(row["at_s"] - self.submitted_s[row["job_id"]]) * 1e3 for row in rows]


async def run(given: argparse.Namespace) -> dict[str, Any]:
    async with app.open_async():
        caller = Caller()
        looking = asyncio.create_task(caller.look())
        await pace.saturated_per_s(caller.one, 4, 1.0)  # warm
        per_s = await pace.saturated_per_s(caller.one, given.in_flight, given.seconds)
        await asyncio.sleep(0.5)
        caller.submitted_s.clear()
        await pace.steady_ms(caller.one, given.rate, given.seconds)
        looking.cancel()
        return pace.told(per_s, await caller.committed_ms())


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work(concurrency: int) -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=concurrency)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prepare", action="store_true", help="make the tables and end")
    options.add_argument("--work", type=int, default=0, help="be a worker that does so many jobs at a time")
    options.add_argument("--in-flight", type=int, default=16)
    options.add_argument("--rate", type=float, default=100.0)
    options.add_argument("--seconds", type=float, default=5.0)
    given = options.parse_args()
    if given.prepare:
        asyncio.run(prepare())
    elif given.work:
        asyncio.run(work(given.work))
    else:
        print(json.dumps(asyncio.run(run(given))))


if __name__ == "__main__":
    main()
