"""Whatever an agent says, the decisions go on, and every number that they tell stays a number."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub import wire
from hub.core import events
from hub.core.admission import Admitted
from hub.core.dispatch import Dispatch
from hub.core.faults import Failure, Fault
from hub.core.health import GpuReading
from hub.core.jobs import Input, Ref, Work
from hub.core.nodes import Gpu
from hub.server import metrics
from hub.service import Hub, serving
from sonic.v1 import fleet_service_pb2, job_service_pb2, jobs_pb2, nodes_pb2
from tests import postgres

from .conftest import config
from .peers import JPEG, WAV, Agent, Caller
from .talk import Talk, job, slot

FLOATS = st.floats()  # NaN, infinities and negative ones among them
INTS = st.integers(-(2**63), 2**63 - 1)
NAMES = st.sampled_from(["", "warp", "sonic", "\0", "x" * 500])
UUIDS = st.sampled_from(["", "g1", "g2"])


@st.composite
def slots(draw: st.DrawFn) -> nodes_pb2.Slot:
    return nodes_pb2.Slot(
        index=draw(st.integers(-2, 3)),
        state=nodes_pb2.SlotState.ValueType(draw(st.integers(0, 6))),
        probe_realtime_factor=draw(FLOATS),
        engines=[nodes_pb2.EngineInfo(engine=draw(NAMES), model_version="1") for _ in range(draw(st.integers(0, 2)))],
        gpu_uuid=draw(UUIDS),
    )


@st.composite
def gpus(draw: st.DrawFn) -> tuple[nodes_pb2.GpuInfo, nodes_pb2.GpuHealth]:
    uuid = draw(UUIDS)
    return (
        nodes_pb2.GpuInfo(uuid=uuid, name=draw(NAMES), memory_bytes=draw(INTS)),
        nodes_pb2.GpuHealth(
            uuid=uuid,
            memory_used_bytes=draw(INTS),
            temperature_celsius=draw(FLOATS),
            throttle_reasons=["thermal"],
            ecc_uncorrected_errors=draw(INTS),
            xid_events={draw(st.integers(-5, 200)): draw(INTS)},
        ),
    )


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.lists(slots(), max_size=4), st.lists(gpus(), max_size=3), FLOATS), min_size=1, max_size=4),
    st.lists(st.tuples(FLOATS, FLOATS, INTS), min_size=1, max_size=4),
    st.tuples(FLOATS, FLOATS),
)
def test_nothing_that_an_agent_says_ends_the_decisions(
    heard: list[tuple[list[nodes_pb2.Slot], list[tuple[nodes_pb2.GpuInfo, nodes_pb2.GpuHealth]], float]],
    reports: list[tuple[float, float, int]],
    others: tuple[float, float],
) -> None:
    hub, now = Dispatch(), 1000.0
    for number, (said, cards, round_trip) in enumerate(heard):
        infos = [info for info, _ in cards]
        health = nodes_pb2.NodeHealth(gpus=[reading for _, reading in cards], round_trip_seconds=round_trip)
        known = tuple(map(wire.gpu, infos))
        hub.handle(events.NodeJoined("n1", "eu", f"s{number}", wire.slots(said), (), (), gpus=known), now)
        now += 16
        readings = wire.readings(infos, health)
        hub.handle(events.NodeHeard("n1", f"s{number}", wire.slots(said), (), readings, wire.sane(round_trip)), now)
        for each, (seconds, video, memory) in enumerate(reports):
            name = f"a{number}-{each}"
            hub.handle(events.JobStored(job(name, work=Work(5.0), inputs=(Input("p", 9), Input("v", 9)))), now)
            hub.assign(now)
            ref = Ref(name, 1)
            hub.handle(events.AttemptStarted("n1", ref), now)
            part = wire.progress(jobs_pb2.Progress(fraction=others[0]))
            hub.handle(events.AttemptProgressed("n1", ref, part), now + 1)
            told = hub.outlook(name, now + 2)
            for estimate in (told.start, told.finish):
                assert estimate is None or all(math.isfinite(seconds) for seconds in estimate)
            report = jobs_pb2.RenderReport(video_seconds=video, peak_memory_bytes=memory)
            report.stages.add(stage="rendering", seconds=seconds)
            hub.handle(events.AttemptSucceeded("n1", ref, b"", wire.rendered(report)), now + 3)
        clip = fleet_service_pb2.ProbeResult(clip=fleet_service_pb2.ProbeClip(realtime_factor=others[1]))
        hub.handle(wire.probed("n1", clip), now)
        hub.handle(events.Ticked(), now + 4)
        hub.assign(now + 4)
        found = hub.standing.health("n1", now + 4)
        assert found
        assert 0.0 <= found.score <= 1.0
        now += 10


def test_what_heartbeats_say_of_gpus_that_the_hello_did_not_name_is_not_kept() -> None:
    infos = [nodes_pb2.GpuInfo(uuid="g1", name="L4")]
    cards = [nodes_pb2.GpuHealth(uuid=f"g{number}", temperature_celsius=60.0) for number in range(5)]
    readings = wire.readings(infos, nodes_pb2.NodeHealth(gpus=cards))
    assert [(reading.uuid, reading.name) for reading in readings] == [("g1", "L4")]


def test_however_many_codes_and_slots_heartbeats_name_a_node_takes_no_more_room() -> None:
    talk = Talk()
    talk.join("n1", gpus=(Gpu("g1", "L4", 1),))
    node = talk.hub.nodes["n1"]
    for beat in range(20):
        codes = {beat * 1000 + number: 1 for number in range(1000)}
        health = nodes_pb2.NodeHealth(gpus=[nodes_pb2.GpuHealth(uuid="g1", xid_events=codes)])
        readings = wire.readings([nodes_pb2.GpuInfo(uuid="g1")], health)
        assert len(readings[0].xid_events) <= wire.MAX_XIDS
        slots = tuple(slot(beat * 10 + number) for number in range(10))
        talk.now += 20
        talk.hub.handle(events.NodeHeard("n1", node.session_id, slots, (), readings), talk.now)
    assert set(node.first_factors) == set(node.slots)
    (xids,) = [factor for factor in talk.hub.standing.health("n1", talk.now).factors if factor.name == "xid"]
    assert len(re.findall(r"\d+ \(", xids.reason)) <= wire.MAX_XIDS


def test_a_fatal_error_counts_whatever_else_was_told_before_it() -> None:
    talk = Talk()
    talk.join("n2")
    talk.join("n1", gpus=(Gpu("g1", "L4", 1),))
    session = talk.hub.nodes["n1"].session_id
    many = dict.fromkeys(range(1000, 2000), 1)
    for said in ({}, many):
        talk.hub.handle(
            events.NodeHeard("n1", session, (slot(),), (), (GpuReading("g1", "L4", xid_events=said),)), 1000.0
        )
    fatal = GpuReading("g1", "L4", xid_events=many | {79: 1})
    talk.say(events.NodeHeard("n1", session, (slot(),), (), (fatal,)), "note ejected n1")


def test_requeues_are_counted_by_the_reasons_of_the_documentation_alone() -> None:
    """Any text of an agent's would be a series of its own for good."""
    errors = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    failed = errors.partition("## A job fails")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", failed, re.MULTILINE)
    tried_again = [(reason, Fault[fault]) for reason, fault in rows if not Fault[fault].final]
    assert len(tried_again) > 15
    for reason, fault in tried_again:
        assert metrics.reason_label(Failure(fault, reason, "")) == reason
    assert metrics.reason_label(wire.failure(jobs_pb2.JobFailure(fault=jobs_pb2.FAULT_KIND_CRASH))) == "CRASH"
    assert metrics.reason_label(Failure(Fault.CRASH, "MADE_UP_17", "")) == "OTHER"


def test_a_node_that_says_a_render_took_more_memory_than_it_has_closes_the_fleet_to_no_job() -> None:
    talk = Talk()
    talk.join("n1", gpus=(Gpu("g1", "L4", 24 << 30),))
    talk.submit("a", "assign a#1 to n1 slot 0", work=Work(5.0))
    report = jobs_pb2.RenderReport(video_seconds=5.0, peak_memory_bytes=2**63 - 1)
    report.stages.add(stage="rendering", seconds=5.0)
    said = events.AttemptSucceeded("n1", Ref("a", 1), b"", wire.rendered(report))
    talk.say(said, "succeed a#1")
    assert talk.hub.admit(job("b", work=Work(5.0)), talk.now) == Admitted()
    talk.submit("b", "assign b#1 to n1 slot 0", work=Work(5.0))


NOBODYS = jobs_pb2.AttemptRef(job_id="\0", attempt=1)


@pytest.mark.parametrize(
    "said",
    [
        {"running": [NOBODYS]},
        {"finished": [NOBODYS]},
        {"gpus": [nodes_pb2.GpuInfo(uuid="g1\0", name="L4\0" + "x" * 5000, memory_bytes=24 << 30)]},
    ],
    ids=["running", "finished", "gpu"],
)
async def test_no_text_of_an_agent_keeps_jobs_from_being_given_out(
    hub: Hub, caller: Caller, agent: Agent, said: dict[str, Any]
) -> None:
    await agent.join(**said)
    submitted = await asyncio.wait_for(caller.submit_new("k1"), 20)
    while (message := await asyncio.wait_for(agent.call.read(), 20)).WhichOneof("message") != "assignment":
        assert message.WhichOneof("message") in ("cancel", "result_ack")
    failure = jobs_pb2.JobFailure(
        fault=jobs_pb2.FAULT_KIND_BAD_INPUT, reason="NO\0", message="no face\0\nat all" + "x" * 9999
    )
    agent.say(result=fleet_service_pb2.AttemptResult(ref=message.assignment.ref, failure=failure))
    ended = await asyncio.wait_for(caller.ended(submitted.job_id), 20)
    assert ended.failure.reason == "NO"
    assert ended.failure.message.startswith("no face\nat all")
    assert len(ended.failure.message) <= wire.MAX_TEXT_CHARACTERS
    assert "\0" not in ended.attempts[0].placement_reason
    assert len(ended.attempts[0].placement_reason) < 1000
    assert not hub.dispatcher.stalled


async def test_no_version_of_an_agent_keeps_it_or_another_out(hub: Hub, channel: Any) -> None:
    for number, version in enumerate(("1\0", "v" * 1000)):
        odd, other = Agent(channel, f"odd{number}"), Agent(channel, f"other{number}")
        await asyncio.wait_for(asyncio.gather(odd.join(agent_version=version), other.join()), 20)


async def test_an_attempt_of_no_job_is_unknown(agent: Agent) -> None:
    await agent.join()
    agent.report_video(NOBODYS)
    answer = (await agent.hear("result_ack")).result_ack
    assert answer.verdict == fleet_service_pb2.RESULT_VERDICT_UNKNOWN


async def test_what_cannot_be_stored_keeps_nothing_else_from_it(
    tmp_path: Path, cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire, "text", lambda said, most=0: said)  # whatever comes past the door some day
    async with (
        serving(config(tmp_path / "hub", database_url=cluster.database())) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        odd, sound, caller = Agent(channel, "odd"), Agent(channel, "sound", "us"), Caller(channel)
        await odd.join(gpus=[nodes_pb2.GpuInfo(uuid="g1", name="L4\0", memory_bytes=24 << 30)])
        await sound.join()
        for data in (JPEG, WAV):
            await caller.upload(data)
        items = [
            job_service_pb2.SubmitJobRequest(
                idempotency_key=region, spec=caller.spec(regions=jobs_pb2.RegionRules(require=[region]))
            )
            for region in ("eu", "us")
        ]
        batch = job_service_pb2.SubmitBatchRequest(items=items)
        stored = (await caller.jobs.SubmitBatch(batch, metadata=caller.metadata)).items
        given = (await asyncio.wait_for(sound.hear("assignment"), 20)).assignment
        assert given.ref.job_id == stored[1].job.job_id
        await asyncio.wait_for(sound.render(given.ref), 20)
        assert "dropped what cannot be stored" in caplog.text
        waits = await caller.get(stored[0].job.job_id)
        assert waits.state == jobs_pb2.JOB_STATE_QUEUED
        cancel = job_service_pb2.CancelJobRequest(job_id=waits.job_id)
        cancelled = await asyncio.wait_for(caller.jobs.CancelJob(cancel, metadata=caller.metadata), 20)
        assert cancelled.job.state == jobs_pb2.JOB_STATE_CANCELLED
