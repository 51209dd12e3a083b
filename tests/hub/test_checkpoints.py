"""The state of a render that came to nothing reaches the next attempt, and is gone when the job has ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import sqlalchemy as sa

from hub import wire
from hub.service import serving
from hub.store.schema import checkpoints, jobs
from sonic.v1 import artifacts_pb2, jobs_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from tests.calls import answered
from tests.folders import files_below

from .conftest import config
from .peers import JPEG, Agent, Caller, digest
from .test_services import refused

NOT_KEPT = jobs_pb2.JobFailure(fault=jobs_pb2.FAULT_KIND_TRANSFER, reason="RESULT_NOT_KEPT", message="no room")


class Kept:
    """What the hub holds."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.url = database_url.replace("postgresql:", "postgresql+psycopg:")
        self.folder = folder
        self._engine = sa.create_engine(self.url)

    def rows(self) -> list[sa.Row[Any]]:
        with self._engine.connect() as connection:
            return list(connection.execute(sa.select(checkpoints)))

    def files(self) -> set[str]:
        return {path.name for path in files_below(self.folder / "states")}

    async def becomes(self, *states: bytes) -> None:
        """Until rows and files are those of these states."""
        wanted = {digest(state) for state in states}
        async with asyncio.timeout(60):
            while {row.sha256 for row in self.rows()} != wanted or self.files() != wanted:
                await asyncio.sleep(0.02)

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def kept(hub: object, database_url: str, tmp_path: Path) -> Iterator[Kept]:
    made = Kept(database_url, tmp_path / "hub" / "artifacts")
    yield made
    made.close()


async def upload(agent: Agent, ref: jobs_pb2.AttemptRef, state: bytes, size_bytes: int = 0) -> None:
    about = artifacts_pb2.UploadHeader(sha256=digest(state), size_bytes=len(state))
    header = fleet_pb.VideoHeader(node_id=agent.node_id, ref=ref, upload=about, checkpoint=True)
    parts = [fleet_pb.UploadVideoRequest(header=header), fleet_pb.UploadVideoRequest(chunk=state[: size_bytes or None])]
    await answered(lambda: agent.fleet.UploadVideo(iter(parts)))


async def send(agent: Agent, ref: jobs_pb2.AttemptRef, state: bytes, done: int) -> None:
    await upload(agent, ref, state)
    tell(agent, ref, digest(state), done)


def tell(agent: Agent, ref: jobs_pb2.AttemptRef, sha256: str, done: int) -> None:
    state = artifacts_pb2.Artifact(sha256=sha256, size_bytes=1)
    agent.say(checkpoint=fleet_pb.AttemptCheckpoint(ref=ref, state=state, done=done, total=10))


async def fail(agent: Agent, ref: jobs_pb2.AttemptRef) -> None:
    agent.say(result=fleet_pb.AttemptResult(ref=ref, failure=NOT_KEPT))
    await agent.hear("result_ack")


async def fetched(agent: Agent, ref: jobs_pb2.AttemptRef, sha256: str) -> bytes:
    request = fleet_pb.FetchInputRequest(node_id=agent.node_id, ref=ref, sha256=sha256)
    return b"".join([part.chunk async for part in agent.fleet.FetchInput(request)])


async def assigned(agent: Agent) -> fleet_pb.Assignment:
    return (await agent.hear("assignment")).assignment


async def begun(caller: Caller, agent: Agent) -> fleet_pb.Assignment:
    """The first attempt of the only job."""
    await caller.submit_new("k")
    await agent.join()
    return await assigned(agent)


async def test_the_next_attempt_goes_on_from_it_and_then_it_is_gone(
    caller: Caller, agent: Agent, channel: grpc.aio.Channel, kept: Kept
) -> None:
    job = await caller.submit_new("k")
    assert (await agent.join()).takes_checkpoints
    first = await assigned(agent)
    assert not first.HasField("checkpoint")
    await send(agent, first.ref, b"early", 3)
    await kept.becomes(b"early")
    await send(agent, first.ref, b"late", 6)
    await kept.becomes(b"late")
    await fail(agent, first.ref)
    other = Agent(channel, "n2")
    await other.join()
    second = await assigned(other)
    assert (second.checkpoint.sha256, second.checkpoint.size_bytes) == (digest(b"late"), 4)
    assert await fetched(other, second.ref, second.checkpoint.sha256) == b"late"
    revision = (await caller.get(job.job_id)).revision
    await send(other, second.ref, b"later", 8)
    await kept.becomes(b"later")
    assert (await caller.get(job.job_id)).revision == revision, "it is no part of the job as its tenant sees it"
    await other.render(second.ref)
    await kept.becomes()


async def test_only_what_is_further_is_kept_and_only_of_the_newest_attempt(
    caller: Caller, agent: Agent, channel: grpc.aio.Channel, kept: Kept
) -> None:
    first = await begun(caller, agent)
    await send(agent, first.ref, b"six", 6)
    await kept.becomes(b"six")
    await send(agent, first.ref, b"five", 5)
    await kept.becomes(b"six")
    await fail(agent, first.ref)
    other = Agent(channel, "n2")
    await other.join()
    second = await assigned(other)
    await refused(send(agent, first.ref, b"nine, of an attempt that is over", 9), grpc.StatusCode.PERMISSION_DENIED)
    await kept.becomes(b"six")
    await send(other, second.ref, b"seven", 7)
    await kept.becomes(b"seven")


async def test_a_state_that_leads_nowhere_is_not_given_for_ever(
    caller: Caller, agent: Agent, channel: grpc.aio.Channel, kept: Kept
) -> None:
    await caller.submit_new("k")
    agents = [agent, Agent(channel, "n2")]
    await agent.join()
    given = []
    for number in range(3):  # the last of them is not reported
        node = agents[number % 2]
        if number == 1:
            await node.join()
        attempt = await assigned(node)
        given.append(attempt.HasField("checkpoint"))
        if number == 0:
            await send(node, attempt.ref, b"poison", 5)
            await kept.becomes(b"poison")
        if number < 2:
            await fail(node, attempt.ref)
    assert given == [False, True, True]
    assert [row.given for row in kept.rows()] == [2]


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_it_is_gone_however_the_job_ends(caller: Caller, agent: Agent, kept: Kept, how: str) -> None:
    attempt = await begun(caller, agent)
    await send(agent, attempt.ref, b"state", 5)
    await kept.becomes(b"state")
    if how == "cancelled":
        await caller.jobs.CancelJob(job_pb.CancelJobRequest(job_id=attempt.ref.job_id), metadata=caller.metadata)
    else:
        failure = jobs_pb2.JobFailure(fault=jobs_pb2.FAULT_KIND_BAD_INPUT, reason="NO_FACE", message="none")
        agent.say(result=fleet_pb.AttemptResult(ref=attempt.ref, failure=failure))
    await kept.becomes()
    await refused(send(agent, attempt.ref, b"too late", 9), grpc.StatusCode.PERMISSION_DENIED)
    await kept.becomes()


async def test_nobody_else_can_have_it(caller: Caller, agent: Agent, channel: grpc.aio.Channel, kept: Kept) -> None:
    attempt = await begun(caller, agent)
    await send(agent, attempt.ref, b"state", 5)
    await kept.becomes(b"state")
    request = job_pb.DownloadArtifactRequest(sha256=digest(b"state"))
    await refused(
        anext(aiter(caller.jobs.DownloadArtifact(request, metadata=caller.metadata))), grpc.StatusCode.NOT_FOUND
    )
    stranger = Agent(channel, "n2")
    await refused(fetched(stranger, attempt.ref, digest(b"state")), grpc.StatusCode.NOT_FOUND)
    await refused(send(stranger, attempt.ref, b"mine", 9), grpc.StatusCode.NOT_FOUND)


async def test_what_is_named_as_a_state_and_is_none_stays(caller: Caller, agent: Agent, kept: Kept) -> None:
    """An agent that names the tenant's portrait must not get it removed with the job."""
    attempt = await begun(caller, agent)
    tell(agent, attempt.ref, digest(JPEG), 5)
    tell(agent, attempt.ref, "no hash", 6)
    tell(agent, jobs_pb2.AttemptRef(job_id="unknown", attempt=1), digest(JPEG), 7)
    await send(agent, attempt.ref, b"state", 8)
    await kept.becomes(b"state")
    await agent.render(attempt.ref)
    await kept.becomes()
    request = job_pb.GetArtifactRequest(sha256=digest(JPEG))
    assert (await caller.jobs.GetArtifact(request, metadata=caller.metadata)).status.complete


async def test_states_that_are_never_told_of_do_not_pile_up(caller: Caller, agent: Agent, kept: Kept) -> None:
    attempt = await begun(caller, agent)
    await send(agent, attempt.ref, b"told", 3)
    await kept.becomes(b"told")
    for number in range(5):
        await upload(agent, attempt.ref, b"%d" % number)
    await upload(agent, attempt.ref, b"told")
    assert kept.files() == {digest(b"told")}
    await upload(agent, attempt.ref, b"last")
    assert kept.files() == {digest(b"told"), digest(b"last")}
    tell(agent, attempt.ref, digest(b"last"), 4)
    await kept.becomes(b"last")


async def test_an_upload_of_the_tenants_is_not_touched(caller: Caller, agent: Agent) -> None:
    attempt = await begun(caller, agent)
    portrait = JPEG * 2
    await refused(caller.upload(portrait, stop=600), grpc.StatusCode.FAILED_PRECONDITION)
    await refused(upload(agent, attempt.ref, portrait, 100), grpc.StatusCode.FAILED_PRECONDITION)
    status = await caller.jobs.GetArtifact(job_pb.GetArtifactRequest(sha256=digest(portrait)), metadata=caller.metadata)
    assert status.status.received_bytes == 600


async def test_a_state_that_is_said_to_be_as_far_as_nobody_gets_does_not_hold_the_place(
    caller: Caller, agent: Agent, channel: grpc.aio.Channel, kept: Kept
) -> None:
    other = Agent(channel, "n2")
    attempt = await begun(caller, agent)
    await send(agent, attempt.ref, b"poison", 2**63 - 1)
    await kept.becomes(b"poison")
    await fail(agent, attempt.ref)
    await other.join()
    attempt = await assigned(other)
    await send(other, attempt.ref, b"early", 3)
    await kept.becomes(b"poison")
    await fail(other, attempt.ref)
    attempt = await assigned(agent)
    await send(agent, attempt.ref, b"early", 3)
    await kept.becomes(b"early")


async def test_a_state_whose_bytes_are_lost_is_not_there(caller: Caller, agent: Agent, kept: Kept) -> None:
    attempt = await begun(caller, agent)
    await send(agent, attempt.ref, b"state", 5)
    await kept.becomes(b"state")
    for path in files_below(kept.folder):
        if path.name == digest(b"state"):
            path.unlink()
    await refused(fetched(agent, attempt.ref, digest(b"state")), grpc.StatusCode.NOT_FOUND)


async def test_what_a_killed_hub_or_agent_has_left_is_found_by_looking(tmp_path: Path, database_url: str) -> None:
    own = config(tmp_path / "hub", database_url=database_url)
    left = Kept(database_url, tmp_path / "hub" / "artifacts")
    async with serving(own) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
        agent, caller = Agent(channel), Caller(channel)
        attempt = await begun(caller, agent)
        await send(agent, attempt.ref, b"state", 5)
        await left.becomes(b"state")
        agent.cut()
    with sa.create_engine(left.url).begin() as connection:  # as another hub would
        connection.execute(sa.update(jobs).where(jobs.c.job_id == attempt.ref.job_id).values(state="cancelled"))
    orphan = left.folder / "states" / "acme" / ("0" * 32) / ("1" * 64)
    orphan.parent.mkdir()
    orphan.write_bytes(b"never told of")
    os.utime(orphan, (0, 0))
    async with serving(own):
        await left.becomes()
    left.close()


def test_the_seconds_of_a_render_that_went_on_from_a_state_teach_nothing() -> None:
    report = jobs_pb2.RenderReport(video_seconds=10, stages=[jobs_pb2.StageTime(stage="rendering", seconds=5)])
    assert wire.rendered(report)
    report.resumed_from = 3
    assert wire.rendered(report) is None
