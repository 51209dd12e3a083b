"""What an agent has sampled when it leaves is with the hub, and nothing is sampled after it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.metrics import Metrics
from agent.spool import Spool
from agent.telemetry import Telemetry
from sonic.metrics import Series
from sonic.v1 import fleet_service_pb2 as pb


def heard_by_a_hub(telemetry: Telemetry, interval_s: float) -> list[int]:
    """Open a session with one that acknowledges every batch at once; the answer grows with their numbers."""
    heard: list[int] = []

    def hear(message: pb.SessionRequest) -> None:
        if message.HasField("samples"):
            heard.append(message.samples.sequence)
            telemetry.acknowledged([message.samples.sequence])

    telemetry.opened(pb.Welcome(sampling_interval_seconds=interval_s), hear)
    return heard


async def test_nothing_is_sampled_after_the_last_batch(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics", 1 << 20, 60)
    telemetry = Telemetry(Metrics("test", "box-1"), spool, Clock())
    sampling = asyncio.create_task(telemetry.sample_at_intervals())
    sending = asyncio.create_task(telemetry.send_what_waits())
    heard = heard_by_a_hub(telemetry, 0.01)
    async with asyncio.timeout(60):
        while len(heard) < 3:
            await asyncio.sleep(0.01)
        await telemetry.flush()
        await sampling  # by itself
    assert spool.first == spool.end, "something was left behind"
    assert heard[-1] == spool.end - 1
    sending.cancel()


async def test_a_disk_that_takes_no_acknowledgement_stops_no_agent(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics", 1 << 20, 60)
    telemetry = Telemetry(Metrics("test", "box-1"), spool, Clock())
    (tmp_path / "metrics" / "acked").mkdir()  # stands for a full disk
    sending = asyncio.create_task(telemetry.send_what_waits())
    heard = heard_by_a_hub(telemetry, 60)
    async with asyncio.timeout(60):
        await telemetry.sample()
        await telemetry.flush()
    assert len(heard) == 2
    assert not sending.done()
    sending.cancel()


@pytest.mark.parametrize("damage", [b"\xff", b"\0"])
async def test_a_damaged_file_costs_what_is_in_it_and_nothing_else(tmp_path: Path, damage: bytes) -> None:
    folder, now_ms = tmp_path / "metrics", time.time_ns() // 1_000_000
    for _ in range(2):
        spool = Spool(folder, 1 << 20, 60)  # a life, and a file
        for at_unix_ms in range(now_ms, now_ms + 10):
            spool.append({Series("m", (), "gauge", ""): 1.0}, at_unix_ms)
    file = sorted(folder.glob("*.seg"))[0]
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = damage * 64
    file.write_bytes(data)
    spool = Spool(folder, 1 << 20, 60)
    telemetry = Telemetry(Metrics("test", "box-1"), spool, Clock())
    sending = asyncio.create_task(telemetry.send_what_waits())
    heard = heard_by_a_hub(telemetry, 60)
    async with asyncio.timeout(60):
        await telemetry.flush()  # everything is with the hub, or given up
    assert heard == sorted(set(heard))
    assert 11 < len(heard) < 21
    assert heard[-11:] == list(range(spool.end - 11, spool.end)), "of the whole file, and of this life"
    sending.cancel()
