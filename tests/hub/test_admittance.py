"""Nobody can take the hub from the others: calls, open calls, sizes and slowness of one caller are bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import exceptions, service
from hub.server import admittance, fleet_service, sessions, transfers
from hub.server.admittance import Admittance
from hub.service import Hub, serving
from sonic.v1 import artifacts_pb2, jobs_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb

from .conftest import config
from .peers import JPEG, Agent, Caller, digest
from .test_services import refused


def test_a_caller_may_make_so_many_calls_and_is_told_when_the_next_one_is_welcome() -> None:
    now = 0.0
    door = Admittance(calls_per_s=2, open_calls=5, clock=lambda: now)
    for _ in range(20):
        with door.passing("a"):
            pass
    with pytest.raises(exceptions.TooManyCalls) as caught, door.passing("a"):
        pass
    assert caught.value.retry_after_s == pytest.approx(0.5)
    with door.passing("b"):  # another one is not concerned
        pass
    now += 0.5
    with door.passing("a"):
        pass


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 3)), max_size=200))
def test_what_is_open_is_counted_whatever_comes(steps: list[tuple[str, bool, float]]) -> None:
    now, held = 0.0, {name: [] for name in "abc"}
    door = Admittance(calls_per_s=5, open_calls=3, clock=lambda: now)
    made = dict.fromkeys("abc", 0)
    for name, ends, pause in steps:
        now += pause
        if ends and held[name]:
            held[name].pop().__exit__(None, None, None)
            continue
        passing = door.passing(name)
        try:
            passing.__enter__()
        except exceptions.TooManyCalls:
            continue
        held[name].append(passing)
        made[name] += 1
        assert len(held[name]) <= 3
        assert made[name] <= 5 * (admittance.BURST_S + now) + 1


def test_callers_that_come_and_go_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admittance, "MOST_KNOWN", 10)
    door = Admittance(1, 1)
    with door.passing("stays"):
        for number in range(1000):
            with door.passing(str(number)):
                pass
        assert len(door._callers) <= 12
        with pytest.raises(exceptions.TooManyCalls), door.passing("stays"):
            pass


async def test_a_message_that_is_too_large_is_refused_before_it_is_read(hub: Hub, caller: Caller) -> None:
    many = jobs_pb2.JobSpec(portrait_sha256="x" * (5 << 20))
    request = job_pb.SubmitJobRequest(idempotency_key="k", spec=many)
    await refused(caller.jobs.SubmitJob(request, metadata=caller.metadata), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_metadata_that_is_too_large_is_refused(hub: Hub, caller: Caller) -> None:
    metadata = (*caller.metadata, *((f"x-{number}", "y" * 100) for number in range(1000)))
    request = job_pb.GetJobRequest(job_id="x")
    await refused(caller.jobs.GetJob(request, metadata=metadata), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_an_upload_that_dribbles_lets_others_go_on(
    hub: Hub, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "IDLE_TIMEOUT_S", 1.0)
    header = artifacts_pb2.UploadHeader(sha256=digest(JPEG), size_bytes=len(JPEG))

    sent = 0

    async def dribble() -> AsyncIterator[job_pb.UploadArtifactRequest]:
        nonlocal sent
        yield job_pb.UploadArtifactRequest(header=header)
        for byte in JPEG:
            yield job_pb.UploadArtifactRequest(chunk=bytes([byte]))
            sent += 1
            await asyncio.sleep(0.1)

    slow = caller.jobs.UploadArtifact(dribble(), metadata=caller.metadata)
    error = await refused(slow, grpc.StatusCode.FAILED_PRECONDITION)
    assert sent < len(JPEG)
    assert "bytes have arrived in" in str(error.details())
    monkeypatch.undo()
    assert (await caller.upload(JPEG)).artifact.size_bytes == len(JPEG)


async def test_a_connection_that_does_not_shake_hands_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = [option for option in service._OPTIONS if option[0] != "grpc.server_handshake_timeout_ms"]
    monkeypatch.setattr(service, "_OPTIONS", [*shorter, ("grpc.server_handshake_timeout_ms", 500)])
    async with serving(config(tmp_path / "hub")) as hub:
        host, _, port = hub.grpc_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n")  # and never more
        async with asyncio.timeout(60):
            while await reader.read(1000):
                pass
        writer.close()


async def test_an_agent_that_says_very_much_is_heard_more_slowly_and_others_as_ever(
    hub: Hub, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MESSAGES_PER_S", 20.0)
    monkeypatch.setattr(sessions, "MOST_AT_ONCE", 20.0)
    loud, calm = Agent(channel, "loud"), Agent(channel, "calm")
    await loud.join()
    await calm.join()
    begun = time.monotonic()
    for number in range(1, 2000):
        loud.say(heartbeat=fleet_pb.Heartbeat(echo=number))
    await asyncio.sleep(0.5)
    calm.say(heartbeat=fleet_pb.Heartbeat(echo=7))
    assert (await calm.hear("echo")).echo.echo == 7
    heard, until = 0, time.monotonic() + 0.5
    while time.monotonic() < until:
        await loud.call.read()
        heard += 1
    assert heard <= 20 + 20 * (time.monotonic() - begun) + 1


async def test_a_session_whose_answers_nobody_takes_is_not_listened_to_any_more(
    hub: Hub, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet_service, "MOST_UNTAKEN", 3)
    agent = Agent(channel)
    await agent.join()
    for session in hub.sessions.all():
        for _ in range(200_000):
            session.outgoing.put_nowait(fleet_pb.SessionResponse(echo=fleet_pb.Echo(echo=1)))
    agent.say(heartbeat=fleet_pb.Heartbeat())
    async with asyncio.timeout(60):
        while "session takes nothing" not in caplog.text:
            await asyncio.sleep(0.05)
    agent.cut()
