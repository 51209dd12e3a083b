"""Light agents for load: a session each, a heartbeat as often as the hub asks, and every attempt ends at once.

On SIGTERM it writes what it has seen: when each result was acknowledged, by the clock that all processes share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import grpc.aio

from sonic.bundles import bundle, unbundled
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc, jobs_pb2, nodes_pb2
from sonic.v1 import fleet_service_pb2 as pb

SESSIONS_PER_CHANNEL = 500
JOINING = 100  # agents that say Hello at a time


class Agent:
    """One node whose attempts end at once with a video that the hub already holds."""

    def __init__(self, stub: Any, number: int, slots: int, video: artifacts_pb2.Artifact) -> None:
        self._stub = stub
        self._video = pb.RenderedVideo(video=video, report=_report())
        self._node_id, self._region = f"edge-{number:05d}", f"region-{number % 8}"
        engines = [nodes_pb2.EngineInfo(engine="warp", model_version="1")]
        self._slots = [
            nodes_pb2.Slot(index=index, state=nodes_pb2.SLOT_STATE_READY, engines=engines, probe_realtime_factor=2.0)
            for index in range(slots)
        ]
        self._health = nodes_pb2.NodeHealth(
            cpu_percent=20,
            memory_available_bytes=8 << 30,
            disk_free_bytes=64 << 30,
            gpus=[nodes_pb2.GpuHealth(uuid=f"GPU-{number:036d}", utilization_percent=50, temperature_celsius=60)],
        )
        self._gpus = [nodes_pb2.GpuInfo(uuid=f"GPU-{number:036d}", name="NVIDIA L4", memory_bytes=24 << 30)]
        self._call: Any = None
        self._held: dict[str, jobs_pb2.AttemptRef] = {}
        self._writing = asyncio.Lock()
        self.interval_s = 5.0

    async def join(self) -> None:
        self._call = self._stub.Session()
        hello = pb.Hello(
            node_id=self._node_id, region=self._region, agent_version="bench", gpus=self._gpus, slots=self._slots
        )
        hello.takes_several = True
        await self._say(pb.SessionRequest(hello=hello))
        self.interval_s = (await self._call.read()).welcome.heartbeat_interval_seconds

    async def work(self, acknowledged: dict[str, float]) -> None:
        while isinstance(message := await self._call.read(), pb.SessionResponse):
            answer: asyncio.Queue[pb.SessionRequest | None] = asyncio.Queue()
            for each in unbundled(message):
                if each.HasField("assignment"):
                    ref = each.assignment.ref
                    self._held[ref.job_id] = ref
                    answer.put_nowait(pb.SessionRequest(started=pb.AttemptStarted(ref=ref)))
                    answer.put_nowait(pb.SessionRequest(result=pb.AttemptResult(ref=ref, video=self._video)))
                elif each.HasField("result_ack"):
                    ref = each.result_ack.ref
                    assert each.result_ack.verdict == pb.RESULT_VERDICT_COMMITTED, each
                    acknowledged[ref.job_id] = time.monotonic()
                    self._held.pop(ref.job_id, None)
            while not answer.empty():
                await self._say(bundle(answer.get_nowait(), answer))

    async def beat(self) -> None:
        beat = pb.Heartbeat(slots=self._slots, attempts=list(self._held.values()), health=self._health)
        beat.sent_at.GetCurrentTime()
        await self._say(pb.SessionRequest(heartbeat=beat))

    async def _say(self, message: pb.SessionRequest) -> None:
        async with self._writing:
            await self._call.write(message)


def _report() -> jobs_pb2.RenderReport:
    """A millisecond of work."""
    stages = [jobs_pb2.StageTime(stage="rendering", seconds=0.001)]
    return jobs_pb2.RenderReport(engine="warp", model_version="1", video_seconds=1, stages=stages)


async def beats(agents: list[Agent], counted: list[int]) -> None:
    """The heartbeats of all that have joined, each as often as its hub asks, spread evenly; `counted` is how many."""
    due: list[tuple[float, int]] = []
    known = 0
    while True:
        now_s = time.monotonic()
        for number in range(known, len(agents)):
            heapq.heappush(due, (now_s + agents[number].interval_s * random.random(), number))
        known = len(agents)
        while due and due[0][0] <= now_s:
            due_s, number = heapq.heappop(due)
            await agents[number].beat()
            counted[0] += 1
            heapq.heappush(due, (due_s + agents[number].interval_s, number))
        await asyncio.sleep(0.005)


async def run(given: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    video = artifacts_pb2.Artifact(sha256=given.video, size_bytes=given.video_bytes, media_type="video/mp4")
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(given.hub, options=options) for _ in range(0, given.count, SESSIONS_PER_CHANNEL)
    ]
    stubs = [fleet_service_pb2_grpc.FleetServiceStub(channel) for channel in channels]
    numbers = range(given.first, given.first + given.count)
    agents = [Agent(stubs[number % len(stubs)], number, given.slots, video) for number in numbers]
    acknowledged: dict[str, float] = {}
    counted = [0]
    joined: list[Agent] = []
    tasks = [asyncio.create_task(beats(joined, counted))]
    for start in range(0, len(agents), JOINING):
        fresh = agents[start : start + JOINING]
        await asyncio.gather(*(agent.join() for agent in fresh))
        tasks += [asyncio.create_task(agent.work(acknowledged)) for agent in fresh]
        joined += fresh
    given.out.with_suffix(".ready").touch()
    tasks += [asyncio.create_task(stop.wait()), asyncio.create_task(tell(given.out.with_suffix(".beats"), counted))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        for task in done:
            task.result()
        raise RuntimeError("a session ended")
    given.out.write_text(json.dumps(acknowledged))


async def tell(path: Path, counted: list[int]) -> None:
    """How many heartbeats have been sent, for whoever measures."""
    while True:
        path.with_suffix(".new").write_text(str(counted[0]))
        path.with_suffix(".new").rename(path)
        await asyncio.sleep(0.1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--hub", required=True)
    options.add_argument("--count", type=int, required=True)
    options.add_argument("--first", type=int, default=0, help="number of the first")
    options.add_argument("--slots", type=int, default=1, help="of each")
    options.add_argument("--video", default="0" * 64, help="hash of the video that every attempt ends with")
    options.add_argument("--video-bytes", type=int, default=0)
    options.add_argument("--out", type=Path, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(options.parse_args()))


if __name__ == "__main__":
    main()
