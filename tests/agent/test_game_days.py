"""Probes and faults on a real agent process with real workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import jobs_pb2, nodes_pb2
from tests.agent.conftest import Leave, Start
from tests.agent.scripted_hub import PATIENCE_S, ScriptedHub, sha256
from tests.agent.test_agent_process import READY, worker_pids
from tests.agent.test_probes import AMD, tree

pytestmark = pytest.mark.integration
GIB = 1 << 30


def play(hub: ScriptedHub, fault: str, seconds: float = 60) -> None:
    kind = nodes_pb2.GameDayFault.Value(f"GAME_DAY_FAULT_{fault}")
    hub.say(play_fault=nodes_pb2.PlayFault(fault=kind, seconds=seconds))


async def heartbeat(hub: ScriptedHub, fits) -> pb.Heartbeat:
    """The first one from now on that fits."""
    message = await hub.until(lambda message: message.HasField("heartbeat") and fits(message.heartbeat), len(hub.heard))
    return message.heartbeat


async def test_a_probe_is_rendered_and_the_round_trip_measured(hub: ScriptedHub, start: Start) -> None:
    await start()
    await hub.slot_is(READY)
    hub.say(probe=pb.Probe(probe_id="p1", slot=0))
    probed = (await hub.until(lambda message: message.HasField("probed"))).probed
    assert (probed.probe_id, probed.clip.realtime_factor, probed.clip.digest) == ("p1", 3.0, "double")
    assert (await heartbeat(hub, lambda beat: beat.health.round_trip_seconds)).health.round_trip_seconds < 30
    hub.assign("job", b"slow 60")
    await hub.started("job")
    hub.say(probe=pb.Probe(probe_id="p2", slot=0))
    second = (await hub.until(lambda message: message.probed.probe_id == "p2")).probed
    assert second.failure.fault == jobs_pb2.FAULT_KIND_DECLINED
    assert sum(message.heartbeat.echo > 0 for message in hub.heard) == 1


async def test_what_is_cached_is_told_with_what_was_used_last_first(hub: ScriptedHub, start: Start) -> None:
    await start(keep_inputs_s=60.0)
    await hub.slot_is(READY)
    assert not (await hub.hello()).cached_sha256
    for job, voice in (("a", b"ok"), ("b", b"slow 0"), ("c", b"ok")):
        hub.assign(job, voice)
        await hub.result(job)
    mark = len(hub.heard)
    hub.cut()
    cached = (await hub.hello(mark)).cached_sha256
    assert list(cached) == [sha256(b"ok"), sha256(b"portrait"), sha256(b"slow 0")]


async def test_what_gpus_say_while_a_fault_is_played(hub: ScriptedHub, start: Start, tmp_path: Path) -> None:
    root = tree(tmp_path, {f"sys/class/drm/card1/device/{name}": value for name, value in AMD.items()})
    agent = await start(plays_faults=True, root=root)
    assert (await hub.hello()).plays_faults
    await hub.slot_is(READY)
    for fault in ("HEAT", "XID", "LEAK"):
        play(hub, fault)
    beat = await heartbeat(hub, lambda beat: len(beat.faults) == 3)
    assert all(0 < fault.seconds <= 60 for fault in beat.faults)
    (gpu,) = beat.health.gpus
    assert (gpu.temperature_celsius, gpu.throttle_reasons, gpu.xid_events[79]) == (96, ["thermal"], 1)
    hub.assign("job", b"ok")
    await hub.result("job")
    leaked = await heartbeat(hub, lambda beat: beat.health.gpus[0].memory_used_bytes > 5 * GIB)
    assert leaked.health.gpus[0].memory_used_bytes == pytest.approx(7.4 * GIB, rel=0.01)
    for fault in ("HEAT", "XID", "LEAK"):
        play(hub, fault, 0)
    (gpu,) = (await heartbeat(hub, lambda beat: not beat.faults)).health.gpus
    assert (gpu.temperature_celsius, gpu.memory_used_bytes, len(gpu.xid_events)) == (71, 5 * GIB, 0)
    await agent.logged("fault ended", times=3)
    told = [(line["message"], line["fault"]) for line in agent.log if line["message"].startswith("fault")]
    assert told[0] == ("fault begins", "heat")
    assert len(told) == 6


async def test_a_slow_worker_is_held_again_and_again_and_finishes(hub: ScriptedHub, start: Start) -> None:
    agent = await start(plays_faults=True)
    await hub.slot_is(READY)
    (pid,) = worker_pids(agent.process.pid)
    hub.assign("job", b"steps 20")
    play(hub, "SLOW")
    async with asyncio.timeout(PATIENCE_S):
        while ") T " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)
    assert (await hub.result("job")).HasField("video")
    play(hub, "SLOW", 0)
    await agent.logged("fault ended")
    hub.assign("next", b"ok")
    assert (await hub.result("next")).HasField("video")
    assert ") T " not in Path(f"/proc/{pid}/stat").read_text()


async def test_a_cut_line_is_dead_until_it_is_over(hub: ScriptedHub, start: Start, leave: Leave) -> None:
    agent = await start(plays_faults=True)
    await hub.slot_is(READY)
    hub.assign("job", leave.voice)
    await hub.started("job")
    mark = len(hub.heard)
    play(hub, "CUT", 1.0)
    hello = await hub.hello(mark)
    assert [ref.job_id for ref in hello.running] == ["job"]
    leave.give()
    assert (await hub.result("job", mark)).HasField("video")
    await agent.logged("session opened", times=2)
    said = [line["message"] for line in agent.log]
    begun = said.index("fault begins")
    assert begun < said.index("session ended", begun) < said.index("fault ended") < said.index("session opened", begun)


async def test_a_skewed_clock_is_told(hub: ScriptedHub, start: Start) -> None:
    await start(plays_faults=True)
    await hub.slot_is(READY)
    play(hub, "SKEW")
    beat = await heartbeat(hub, lambda beat: beat.faults)
    assert beat.sent_at.seconds - time.time() > 100
    play(hub, "SKEW", 0)
    beat = await heartbeat(hub, lambda beat: not beat.faults)
    assert beat.sent_at.seconds - time.time() < 5


async def test_where_faults_are_not_allowed_none_is_played(hub: ScriptedHub, start: Start) -> None:
    agent = await start()
    await hub.slot_is(READY)
    play(hub, "CUT")
    hub.assign("job", b"ok")
    assert (await hub.result("job")).HasField("video")
    await agent.kill()
    assert not [line for line in agent.log if line["message"].startswith("fault")]
