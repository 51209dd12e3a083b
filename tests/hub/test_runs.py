"""RunJobs: jobs come in and their ends go out over one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from hub import exceptions
from hub.server.runs import Run
from hub.server.watchers import Watchers
from hub.service import serving
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import jobs_pb2

from .conftest import config
from .peers import JPEG, WAV, Agent, Caller


class Runner:
    """One call, which ends when the test says so."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.call: Any = caller.jobs.RunJobs(metadata=caller.metadata)

    async def say(self, *keys: str, **about: Any) -> None:
        items = [pb.SubmitJobRequest(idempotency_key=key, spec=self._caller.spec(**about)) for key in keys]
        await self.call.write(pb.RunJobsRequest(items=items))

    async def hear(self) -> pb.RunJobsResponse:
        message: pb.RunJobsResponse = await asyncio.wait_for(self.call.read(), 10)
        assert message is not grpc.aio.EOF
        return message

    async def accepted(self, *keys: str) -> list[str]:
        found: dict[str, str] = {}
        while set(found) != set(keys):
            found |= {one.idempotency_key: one.job_id for one in (await self.hear()).accepted}
        return [found[key] for key in keys]

    async def ended(self) -> jobs_pb2.Job:
        while not (told := await self.hear()).ended:
            pass
        (job,) = told.ended
        return job


@pytest.fixture
async def ready(caller: Caller) -> Caller:
    """Its inputs are there."""
    for data in (JPEG, WAV):
        await caller.upload(data)
    return caller


async def test_a_key_that_a_database_cannot_hold_is_refused_alone(ready: Caller) -> None:
    runner = Runner(ready)
    await runner.say("k1\0")
    (refused,) = (await runner.hear()).refused
    assert [problem.field for problem in refused.error.problems] == ["idempotency_key"]
    await runner.say("k2")
    await runner.accepted("k2")
    runner.call.cancel()


async def test_each_job_is_accepted_and_its_end_is_told(ready: Caller, agent: Agent) -> None:
    await agent.join()
    runner = Runner(ready)
    await runner.say("k1", "k2")
    ids = await runner.accepted("k1", "k2")
    for job_id in ids:
        await agent.render((await agent.hear("assignment")).assignment.ref)
        ended = await runner.ended()
        assert ended == await ready.get(job_id)
        assert ended.state == jobs_pb2.JOB_STATE_SUCCEEDED
    await runner.say("k3")
    (third,) = await runner.accepted("k3")
    await runner.call.done_writing()
    cancel = pb.CancelJobRequest(job_id=third)
    await ready.jobs.CancelJob(cancel, metadata=ready.metadata)
    assert (await runner.ended()).state == jobs_pb2.JOB_STATE_CANCELLED
    assert await asyncio.wait_for(runner.call.read(), 10) is grpc.aio.EOF


async def test_what_has_ended_meanwhile_is_told_when_it_is_said_again(ready: Caller, agent: Agent) -> None:
    await agent.join()
    first = Runner(ready)
    await first.say("k1")
    (job_id,) = await first.accepted("k1")
    first.call.cancel()
    await agent.render((await agent.hear("assignment")).assignment.ref)
    again = Runner(ready)
    await again.say("k1")
    told = await again.hear()
    assert [one.job_id for one in told.accepted] == [job_id]
    assert [job.job_id for job in told.ended] or (await again.ended()).job_id == job_id


async def test_a_bad_item_is_refused_alone(ready: Caller) -> None:
    runner = Runner(ready)
    await runner.say("k1")
    await runner.accepted("k1")
    await runner.say("k1", priority=3)
    await runner.say("k2", engine="x" * 100)
    refused = [(await runner.hear()).refused[0] for _ in range(2)]
    assert [one.idempotency_key for one in refused] == ["k1", "k2"]
    assert [one.error.reason for one in refused] == ["KEY_REUSED", "INVALID_REQUEST"]
    assert refused[1].error.problems[0].field == "spec.engine"
    assert refused[1].retry_after_seconds == 0
    await runner.say(*(f"k{number}" for number in range(1001)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await runner.call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_beyond_a_limit_it_says_when_to_come_back(tmp_path: Path) -> None:
    about = config(tmp_path / "hub", max_queued_jobs=1)
    async with serving(about) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
        caller = Caller(channel)
        await caller.submit_new("k0")
        runner = Runner(caller)
        await runner.say("k1")
        (refused,) = (await runner.hear()).refused
        assert refused.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert refused.retry_after_seconds > 0


async def test_what_comes_while_some_is_stored_is_stored_together() -> None:
    asked: list[int] = []
    all_said = asyncio.Event()

    async def take_in(items: Sequence[pb.SubmitJobRequest]) -> list[Any]:
        asked.append(len(items))
        await all_said.wait()
        return [exceptions.KeyReused("it is") for _ in items]

    async def ended(_: Collection[str]) -> list[jobs_pb2.Job]:
        return []

    async def requests() -> AsyncIterator[pb.RunJobsRequest]:
        for number in range(5):
            yield pb.RunJobsRequest(items=[pb.SubmitJobRequest(idempotency_key=f"k{number}")])
            await asyncio.sleep(0.01)
        all_said.set()

    run = Run(take_in, ended, lambda _: False, Watchers())
    refused = [one.idempotency_key async for answer in run.answers(requests()) for one in answer.refused]
    assert refused == [f"k{number}" for number in range(5)]
    assert len(asked) == 2


async def test_an_end_that_nobody_told_of_is_found_however_much_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.server.watchers._LOOK_AGAIN_S", 0.3)
    watchers, over = Watchers(), set()

    async def take_in(items: Sequence[pb.SubmitJobRequest]) -> list[Any]:
        return [SimpleNamespace(row=SimpleNamespace(job_id=item.idempotency_key)) for item in items]

    async def ended(job_ids: Collection[str]) -> list[jobs_pb2.Job]:
        return [jobs_pb2.Job(job_id=job_id) for job_id in job_ids if job_id in over]

    async def requests() -> AsyncIterator[pb.RunJobsRequest]:
        yield pb.RunJobsRequest(items=[pb.SubmitJobRequest(idempotency_key=f"k{number}") for number in range(1000)])

    async def others() -> None:
        over.add("k0")  # and nobody says so
        for number in range(1, 1000):
            over.add(f"k{number}")
            watchers.ended([f"k{number}"])
            await asyncio.sleep(0.05)

    telling: asyncio.Task[None] | None = None
    run = Run(take_in, ended, lambda job_id: job_id not in over, watchers)
    async for answer in run.answers(requests()):
        telling = telling or asyncio.create_task(others())
        if "k0" in [job.job_id for job in answer.ended]:
            break
    assert telling
    assert not telling.done(), "it was found only when nothing else was told any more"
    telling.cancel()
