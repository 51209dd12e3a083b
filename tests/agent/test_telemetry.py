"""What an agent has sampled when it leaves is with the hub, and nothing is sampled after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.clock import Clock
from agent.metrics import Metrics
from agent.spool import Spool
from agent.telemetry import Telemetry
from sonic.v1 import fleet_service_pb2 as pb


async def test_nothing_is_sampled_after_the_last_batch(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics", 1 << 20, 60)
    telemetry = Telemetry(Metrics("test", "box-1"), spool, Clock())
    heard: list[int] = []

    def hear(message: pb.SessionRequest) -> None:
        if message.HasField("samples"):
            heard.append(message.samples.sequence)
            telemetry.acknowledged([message.samples.sequence])

    sampling = asyncio.create_task(telemetry.sample_at_intervals())
    sending = asyncio.create_task(telemetry.send_what_waits())
    telemetry.opened(pb.Welcome(sampling_interval_seconds=0.01), hear)
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
    heard: list[int] = []

    def hear(message: pb.SessionRequest) -> None:
        if message.HasField("samples"):
            heard.append(message.samples.sequence)
            telemetry.acknowledged([message.samples.sequence])

    (tmp_path / "metrics" / "acked").mkdir()  # stands for a full disk
    sending = asyncio.create_task(telemetry.send_what_waits())
    telemetry.opened(pb.Welcome(sampling_interval_seconds=60), hear)
    async with asyncio.timeout(60):
        await telemetry.sample()
        await telemetry.flush()
    assert len(heard) == 2
    assert not sending.done()
    sending.cancel()
