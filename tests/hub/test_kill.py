"""What was acknowledged survives kill -9 of the hub at any moment, and every job ends exactly once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import grpc
import grpc.aio
import pytest

from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from sonic.v1 import jobs_pb2
from tests.processes import Process, free_port, process, python, wait_until_ready

from .peers import JPEG, MP4, WAV, Agent, Caller

JOBS, KILLS = 60, 4
HUB = """
import asyncio, pathlib
from hub import config, service
asyncio.run(service.run(config.HubConfig(listen="127.0.0.1:{grpc}", http_listen="127.0.0.1:{http}",
    data_dir=pathlib.Path({data!r}), insecure=True, heartbeat_interval_s=5, lease_s=20)))
"""


class Node:
    """An agent that keeps what it has finished until the hub has acknowledged it."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.agent = Agent(channel, name)
        self.outbox: dict[tuple[str, int], jobs_pb2.AttemptRef] = {}

    async def work(self) -> None:
        while True:
            try:
                await self.agent.join(finished=list(self.outbox.values()))
                for ref in self.outbox.values():
                    self.agent.report_video(ref)
                await self.listen()
            except (grpc.aio.AioRpcError, AssertionError):
                await asyncio.sleep(0.05)

    async def listen(self) -> None:
        while (message := await self.agent.call.read()) is not grpc.aio.EOF:
            if message.HasField("assignment"):
                ref = message.assignment.ref
                self.outbox[(ref.job_id, ref.attempt)] = ref
                self.agent.say(started=fleet_pb.AttemptStarted(ref=ref))
                await self.agent.upload_video(ref)
                self.agent.report_video(ref)
            elif message.HasField("result_ack"):
                ref, verdict = message.result_ack.ref, message.result_ack.verdict
                if verdict == fleet_pb.RESULT_VERDICT_VIDEO_MISSING:
                    await self.agent.upload_video(ref)
                    self.agent.report_video(ref)
                    continue
                self.outbox.pop((ref.job_id, ref.attempt), None)


async def until_answered(call):
    """Repeat a call until the hub answers, as every client does."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            await asyncio.sleep(0.05)


async def submit_all(caller: Caller, acknowledged: dict[str, str]) -> None:
    for data in (JPEG, WAV):
        await until_answered(lambda data=data: caller.upload(data))
    for number in range(JOBS):
        job = await until_answered(lambda number=number: caller.submit(f"k{number}"))
        acknowledged[f"k{number}"] = job.job_id
        await asyncio.sleep(0.01)


async def kill_now_and_then(hub: Process, url: str) -> None:
    chance = random.Random(7)
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        hub.kill()
        hub.start()
        await asyncio.to_thread(wait_until_ready, url, hub)


@pytest.mark.integration
async def test_every_acknowledged_job_ends_exactly_once(tmp_path: Path) -> None:
    grpc_port, http_port = free_port(), free_port()
    code = HUB.format(grpc=grpc_port, http=http_port, data=str(tmp_path / "hub"))
    url = f"http://127.0.0.1:{http_port}/readyz"
    reconnect = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    with process(python(code), tmp_path / "hub.log") as hub:
        wait_until_ready(url, hub)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options=reconnect) as channel:
            caller, acknowledged = Caller(channel), {}
            nodes = [Node(channel, "n1"), Node(channel, "n2")]
            working = [asyncio.create_task(node.work()) for node in nodes]
            await asyncio.gather(submit_all(caller, acknowledged), kill_now_and_then(hub, url))
            jobs = [
                await asyncio.wait_for(until_answered(lambda i=i: caller.ended(i)), 120) for i in acknowledged.values()
            ]
            listed = await caller.jobs.ListJobs(job_pb.ListJobsRequest(page_size=500), metadata=caller.metadata)
            for task in working:
                task.cancel()
            await asyncio.wait(working)
        assert hub.stop() == 0
    assert len(set(acknowledged.values())) == JOBS
    assert {job.job_id for job in listed.jobs} == set(acknowledged.values())
    assert all(job.state == jobs_pb2.JOB_STATE_SUCCEEDED for job in jobs)
    assert all(job.video.size_bytes == len(MP4) for job in jobs)
