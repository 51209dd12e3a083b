"""Simulated nodes against a real hub: what a real agent keeps, they keep."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import av
import grpc
import grpc.aio
import pytest

from hub.service import Hub
from hub.testing import NodeProfile, running_fleet, running_hub, unlike
from sonic import simulated_fleet
from sonic.simulated_line import signed, slate
from sonic.v1 import admin_service_pb2 as admin_pb
from sonic.v1 import artifacts_pb2, jobs_pb2, nodes_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from tests.agent.scripted_hub import ScriptedHub
from tests.processes import free_port

from .peers import Caller

QUICK = NodeProfile("n1", slots=2, speedup=100, jitter=0)
SETTINGS = {"heartbeat_interval_s": 0.3, "lease_s": 30.0}


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with running_hub(tmp_path, **SETTINGS) as running:
        yield running


@pytest.fixture
async def caller(hub: Hub) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(hub.grpc_address) as channel:
        yield Caller(channel)


async def node(caller: Caller, node_id: str = "n1") -> nodes_pb2.Node:
    return (await caller.admin.GetNode(admin_pb.GetNodeRequest(node_id=node_id))).node


async def until(told) -> None:
    async with asyncio.timeout(60):
        while not await told():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("own_videos", [False, True])
async def test_a_fleet_finishes_what_it_is_given(hub: Hub, caller: Caller, own_videos: bool) -> None:
    profiles = [replace(profile, speedup=100, own_videos=own_videos) for profile in unlike(5, regions=("eu", "us"))]
    async with running_fleet(hub, profiles) as fleet:
        jobs = [await caller.submit_new(f"k{number}") for number in range(20)]
        ended = await asyncio.gather(*(caller.ended(job.job_id) for job in jobs))
        async with asyncio.timeout(60):
            while sum(node.rendered for node in fleet.nodes) < 20:  # the last nodes are told after the callers
                await asyncio.sleep(0.01)
    assert {job.state for job in ended} == {jobs_pb2.JOB_STATE_SUCCEEDED}
    assert sum(node.rendered for node in fleet.nodes) == 20
    assert len({job.video.sha256 for job in ended}) == (20 if own_videos else 1)
    report = ended[0].report
    assert {stage.stage for stage in report.stages} == {"preparing", "rendering", "checking"}
    assert report.peak_memory_bytes > 0
    request = job_pb.DownloadArtifactRequest(
        sha256=ended[0].video.sha256, range=artifacts_pb2.ByteRange(length_bytes=len(slate()))
    )
    parts = [part.chunk async for part in caller.jobs.DownloadArtifact(request, metadata=caller.metadata)]
    assert b"".join(parts) == slate()


def test_the_slate_can_be_played_signed_or_not() -> None:
    for video in (slate(), signed(jobs_pb2.AttemptRef(job_id="j", attempt=1), "n1")):
        with av.open(io.BytesIO(video)) as container:
            assert len(list(container.decode(video=0))) == 25
            assert len(container.streams.audio) == 1


async def test_work_without_length_costs_no_time_and_one_upload_a_tenant(hub: Hub, caller: Caller) -> None:
    profile = replace(QUICK, speedup=math.inf, tells_start=False, progress_interval_s=0)
    async with running_fleet(hub, [profile]) as fleet:
        for number in range(5):
            job = await caller.submit_new(f"k{number}")
            assert (await caller.ended(job.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED
        assert fleet["n1"].line.holds_slate("acme")


async def test_a_restart_of_the_hub_loses_and_doubles_nothing(tmp_path: Path) -> None:
    settings = SETTINGS | {"listen": f"127.0.0.1:{free_port()}"}
    profiles = [replace(QUICK, node_id=f"n{number}", speedup=4) for number in range(3)]
    async with simulated_fleet.running(settings["listen"], profiles) as fleet:
        async with running_hub(tmp_path, **settings) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
            await fleet.joined()
            jobs = [await Caller(channel).submit_new(f"k{number}") for number in range(12)]
            await until(lambda: _true(sum(len(node.running) for node in fleet.nodes) == 6))
        async with running_hub(tmp_path, **settings) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
            ended = await asyncio.gather(*(Caller(channel).ended(job.job_id) for job in jobs))
    assert {job.state for job in ended} == {jobs_pb2.JOB_STATE_SUCCEEDED}
    assert [len(job.attempts) for job in ended] == [1] * 12
    assert sum(node.rendered for node in fleet.nodes) == 12


async def _true(value: bool) -> bool:
    return value


async def test_cancel_frees_the_slot(hub: Hub, caller: Caller) -> None:
    async with running_fleet(hub, [replace(QUICK, slots=1, speedup=0.01)]) as fleet:
        job = await caller.submit_new("k1")
        await until(lambda: _true(bool(fleet["n1"].running)))
        await caller.jobs.CancelJob(job_pb.CancelJobRequest(job_id=job.job_id), metadata=caller.metadata)
        await until(lambda: _true(not fleet["n1"].running and not fleet["n1"].finished))
        assert (await caller.get(job.job_id)).state == jobs_pb2.JOB_STATE_CANCELLED


async def test_drain_gives_nothing_new_and_leaving_finishes_what_runs(hub: Hub, caller: Caller) -> None:
    async with running_fleet(hub, [replace(QUICK, speedup=5)]) as fleet:
        await caller.admin.DrainNode(admin_pb.DrainNodeRequest(node_id="n1"))
        job = await caller.submit_new("k1")
        await asyncio.sleep(0.3)
        assert not fleet["n1"].running
        await caller.admin.ResumeNode(admin_pb.ResumeNodeRequest(node_id="n1"))
        await until(lambda: _true(bool(fleet["n1"].running)))
        assert await fleet.leave(timeout_s=60)
        assert (await caller.ended(job.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED
        await until(lambda: _offline(caller))


async def play(caller: Caller, fault: str, seconds: float = 60) -> None:
    kind = nodes_pb2.GameDayFault.Value(f"GAME_DAY_FAULT_{fault}")
    request = admin_pb.PlayFaultRequest(node_id="n1", fault=nodes_pb2.PlayFault(fault=kind, seconds=seconds))
    await caller.admin.PlayFault(request)


async def shown(caller: Caller, fits) -> nodes_pb2.Node:
    """The node, once it fits."""
    async with asyncio.timeout(60):
        while not fits(found := await node(caller)):
            await asyncio.sleep(0.02)
    return found


async def test_a_fault_is_shown_and_ends_by_itself_or_when_told(
    hub: Hub, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_fleet(hub, [QUICK]):
        assert (await node(caller)).plays_faults
        await play(caller, "HEAT")
        hot = await shown(caller, lambda node: node.faults)
        assert (hot.health.gpus[0].temperature_celsius, hot.health.gpus[0].throttle_reasons) == (96, ["thermal"])
        assert 50 < hot.faults[0].seconds <= 60
        await play(caller, "HEAT", 0)
        cool = await shown(caller, lambda node: not node.faults)
        assert not cool.health.gpus[0].throttle_reasons
        caplog.clear()
        await play(caller, "SLOW", 0.2)
        await until(lambda: _true("fault ended" in caplog.messages))
        await shown(caller, lambda node: not node.faults)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedHub]:
    """A hub that says what the test wants said."""
    hub = ScriptedHub()
    await hub.start()
    yield hub
    await hub.stop()


async def probed(hub: ScriptedHub, probe_id: str, slot: int = 0) -> fleet_pb.ProbeResult:
    hub.say(probe=fleet_pb.Probe(probe_id=probe_id, slot=slot))
    return (await hub.until(lambda message: message.probed.probe_id == probe_id)).probed


async def test_probes_and_renders_are_right_unless_xid_is_played(scripted: ScriptedHub) -> None:
    async with simulated_fleet.running(scripted.address, [replace(QUICK, slots=1)]) as fleet:
        await fleet.joined()
        assert (await probed(scripted, "p1")).clip.realtime_factor == pytest.approx(2.0)
        fleet["n1"].play(nodes_pb2.GAME_DAY_FAULT_XID, 60)
        assert (await probed(scripted, "p2")).failure.fault == jobs_pb2.FAULT_KIND_DEVICE
        assert (await probed(scripted, "p3", slot=5)).failure.fault == jobs_pb2.FAULT_KIND_DECLINED
        await scripted.slot_is(nodes_pb2.SLOT_STATE_READY, len(scripted.heard))
        scripted.assign("job", b"voice")
        assert (await scripted.result("job")).failure.fault == jobs_pb2.FAULT_KIND_DEVICE
        told = await scripted.until(lambda message: any(gpu.xid_events for gpu in message.heartbeat.health.gpus))
        assert told.heartbeat.health.gpus[0].xid_events[79] >= 1
        fleet["n1"].play(nodes_pb2.GAME_DAY_FAULT_XID, 0)
        await scripted.slot_is(nodes_pb2.SLOT_STATE_READY, len(scripted.heard))
        assert (await probed(scripted, "p4")).HasField("clip")
        scripted.assign("next", b"voice")
        assert (await scripted.result("next")).HasField("video")


async def test_a_probe_gives_way_to_work(scripted: ScriptedHub) -> None:
    async with simulated_fleet.running(scripted.address, [replace(QUICK, speedup=1)]) as fleet:
        await fleet.joined()
        scripted.say(probe=fleet_pb.Probe(probe_id="p", slot=0))
        scripted.assign("job", b"voice")
        declined = (await scripted.until(lambda message: message.probed.probe_id == "p")).probed
        assert declined.failure.fault == jobs_pb2.FAULT_KIND_DECLINED
        await scripted.started("job")


@pytest.mark.parametrize("several", [True, False])
async def test_what_is_due_together_is_one_message_to_a_hub_that_takes_several(
    scripted: ScriptedHub, several: bool
) -> None:
    scripted.takes_several = several
    async with simulated_fleet.running(scripted.address, [replace(QUICK, speedup=math.inf)]) as fleet:
        await fleet.joined()
        ref = jobs_pb2.AttemptRef(job_id="unknown", attempt=1)
        cancel = fleet_pb.SessionResponse(cancel=fleet_pb.CancelAttempt(ref=ref))
        scripted.say(probe=fleet_pb.Probe(probe_id="p", slot=7), more=[cancel])
        assert (await scripted.result("unknown")).HasField("stopped")
        assert any(message.probed.probe_id == "p" for message in scripted.heard)
        assert scripted.bundles == several


async def test_a_leak_fills_the_gpu(hub: Hub, caller: Caller) -> None:
    async with running_fleet(hub, [replace(QUICK, slots=1)]) as fleet:
        await play(caller, "LEAK")
        await shown(caller, lambda node: node.faults)
        for number in range(30):
            await caller.submit_new(f"k{number}")
        await until(lambda: _true(fleet["n1"].failed > 0))
        assert 3 < fleet["n1"].rendered < 30


async def test_a_cut_node_finishes_its_work_and_brings_it_back(hub: Hub, caller: Caller) -> None:
    async with running_fleet(hub, [replace(QUICK, speedup=2)]) as fleet:
        job = await caller.submit_new("k1")
        await until(lambda: _true(bool(fleet["n1"].running)))
        await play(caller, "CUT")
        await until(lambda: _offline(caller))
        await until(lambda: _true(bool(fleet["n1"].finished)))
        fleet["n1"].play(nodes_pb2.GAME_DAY_FAULT_CUT, 0)
        ended = await caller.ended(job.job_id)
    assert (ended.state, len(ended.attempts)) == (jobs_pb2.JOB_STATE_SUCCEEDED, 1)


async def test_faults_are_refused_where_they_are_not_allowed(hub: Hub, caller: Caller) -> None:
    async with running_fleet(hub, [replace(QUICK, plays_faults=False)]):
        for code, fault, seconds in (
            (grpc.StatusCode.FAILED_PRECONDITION, "HEAT", 60),
            (grpc.StatusCode.INVALID_ARGUMENT, "HEAT", -1),
            (grpc.StatusCode.INVALID_ARGUMENT, "UNSPECIFIED", 60),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await play(caller, fault, seconds)
            assert caught.value.code() is code


async def _offline(caller: Caller) -> bool:
    return (await node(caller)).state == nodes_pb2.NODE_STATE_OFFLINE
