"""A node reaches an attempt's files while the attempt may still be the one that finishes its job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from agent import transfers
from hub.server import fleet_service
from sonic.v1 import artifacts_pb2, jobs_pb2
from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import job_service_pb2 as job_pb

from .peers import MP4, Agent, Caller, digest
from .test_checkpoints import assigned, fail, fetched, send
from .test_services import refused

DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def other(channel: grpc.aio.Channel) -> AsyncIterator[Agent]:
    agent = Agent(channel, "n2")
    yield agent
    if agent.call:
        agent.cut()


async def is_over(call: object) -> None:
    assert transfers.is_over(await refused(call, DENIED))


async def nothing_is_left(agent: Agent, given: pb.Assignment) -> None:
    about = {"node_id": agent.node_id, "ref": given.ref, "sha256": digest(MP4)}
    await is_over(fetched(agent, given.ref, given.voice.sha256))
    await is_over(agent.fleet.GetVideo(pb.GetVideoRequest(**about)))
    await is_over(agent.fleet.PlaceVideo(pb.PlaceVideoRequest(**about, size_bytes=1)))
    await is_over(agent.upload_video(given.ref))
    await is_over(send(agent, given.ref, b"state", 5))


async def told(agent: Agent, ref: jobs_pb2.AttemptRef) -> int:
    agent.report_video(ref)
    return (await agent.hear("result_ack")).result_ack.verdict


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled"])
async def test_a_node_reaches_nothing_of_a_job_that_has_ended(caller: Caller, agent: Agent, how: str) -> None:
    job = await caller.submit_new("k")
    await agent.join()
    given = await assigned(agent)
    await fetched(agent, given.ref, given.voice.sha256)
    if how == "succeeded":
        await agent.render(given.ref)
    elif how == "failed":
        failure = jobs_pb2.JobFailure(fault=jobs_pb2.FAULT_KIND_BAD_INPUT, reason="NO_FACE", message="none")
        agent.say(result=pb.AttemptResult(ref=given.ref, failure=failure))
        await agent.hear("result_ack")
    else:
        await caller.jobs.CancelJob(job_pb.CancelJobRequest(job_id=job.job_id), metadata=caller.metadata)
        await agent.hear("cancel")
    await nothing_is_left(agent, given)
    won = how == "succeeded"
    assert await told(agent, given.ref) == (pb.RESULT_VERDICT_COMMITTED if won else pb.RESULT_VERDICT_SUPERSEDED)


async def test_an_attempt_that_was_given_up_reads_no_more_and_may_still_win(
    caller: Caller, agent: Agent, other: Agent
) -> None:
    await caller.submit_new("k")
    await agent.join()
    first = await assigned(agent)
    await fail(agent, first.ref)
    await other.join()
    second = await assigned(other)
    await is_over(fetched(agent, first.ref, first.voice.sha256))
    assert (await agent.upload_video(first.ref)).sha256 == digest(MP4)
    assert await told(agent, first.ref) == pb.RESULT_VERDICT_COMMITTED
    assert (await other.hear("cancel")).cancel.ref == second.ref
    await nothing_is_left(other, second)
    assert await told(other, second.ref) == pb.RESULT_VERDICT_SUPERSEDED


async def test_an_upload_under_way_ends_with_the_job(
    caller: Caller, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "RIGHT_LOOKED_AT_S", 0.1)
    job = await caller.submit_new("k")
    await agent.join()
    ref = (await assigned(agent)).ref
    upload = artifacts_pb2.UploadHeader(sha256=digest(MP4), size_bytes=len(MP4))
    call = agent.fleet.UploadVideo()
    await call.write(pb.UploadVideoRequest(header=pb.VideoHeader(node_id="n1", ref=ref, upload=upload)))
    await call.write(pb.UploadVideoRequest(chunk=MP4[:5]))
    await caller.jobs.CancelJob(job_pb.CancelJobRequest(job_id=job.job_id), metadata=caller.metadata)
    await asyncio.sleep(0.2)
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        await call.write(pb.UploadVideoRequest(chunk=MP4[5:]))
        await call.done_writing()
    await is_over(call)
