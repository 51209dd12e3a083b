"""What is due together travels as one message, to those who take several, and alone to all others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sonic.bundles import MOST_BYTES, bundle, unbundled
from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import jobs_pb2

from .peers import Agent, Caller
from .secured import secured


def waiting(*messages: pb.SessionRequest | None) -> asyncio.Queue[pb.SessionRequest | None]:
    queue: asyncio.Queue[pb.SessionRequest | None] = asyncio.Queue()
    for message in messages:
        queue.put_nowait(message)
    return queue


def started(job_id: str) -> pb.SessionRequest:
    return pb.SessionRequest(started=pb.AttemptStarted(ref=jobs_pb2.AttemptRef(job_id=job_id, attempt=1)))


def test_a_bundle_keeps_the_order_and_leaves_the_end() -> None:
    first, queue = started("a"), waiting(started("b"), started("c"), None)
    told = unbundled(bundle(first, queue))
    assert [message.started.ref.job_id for message in told] == ["a", "b", "c"]
    assert first == started("a")  # whoever has sent it may keep it
    assert queue.get_nowait() is None


def test_a_bundle_is_no_larger_than_a_message_may_be() -> None:
    large = started("x" * (MOST_BYTES // 2))
    queue = waiting(large, large, large)
    assert len(unbundled(bundle(large, queue))) == 2
    assert queue.qsize() == 2


@pytest.mark.parametrize("several", [True, False])
async def test_an_answer_and_the_next_work_come_as_the_agent_takes_them(
    caller: Caller, agent: Agent, several: bool
) -> None:
    jobs = [await caller.submit_new("k1"), await caller.submit("k2")]
    assert (await agent.join(takes_several=several)).takes_several
    first = (await agent.hear("assignment")).assignment
    video = await agent.upload_video(first.ref)
    done = pb.AttemptResult(ref=first.ref, video=pb.RenderedVideo(video=video))
    agent.say(started=pb.AttemptStarted(ref=first.ref), more=[pb.SessionRequest(result=done)])
    answer = await agent.hear("result_ack")
    assert answer.result_ack.verdict == pb.RESULT_VERDICT_COMMITTED
    (given,) = answer.more if several else [await agent.hear("assignment")]
    assert {first.ref.job_id, given.assignment.ref.job_id} == {job.job_id for job in jobs}
    assert not given.more
    ended = await caller.ended(first.ref.job_id)
    assert ended.attempts[0].HasField("started_at")


async def test_welcome_comes_alone_although_more_is_due_with_it(tmp_path: Path) -> None:
    async with secured(tmp_path) as at, at.agent(await at.enrolled()) as agent:
        await agent.join(takes_several=True)
        await at.operator.drain("n1")
        await agent.hear("drain")
        for _ in range(5):  # the right to join is looked up while the decisions are made
            agent.cut()
            await agent.join(takes_several=True)
            await agent.hear("drain")
