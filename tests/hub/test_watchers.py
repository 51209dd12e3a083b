"""Callers that follow jobs are told of changes at once, and looked after without taking the hub's time from work."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest

from hub import exceptions, service
from hub.server.watchers import Watchers
from sonic.v1 import job_service_pb2 as pb

from .conftest import config
from .peers import Caller


async def test_whoever_follows_a_job_is_woken_by_its_change_alone() -> None:
    watchers = Watchers()
    with watchers.on("a") as one, watchers.on("a") as other, watchers.on("b") as elsewhere:
        watchers.wake(["a", "nobody's"])
        assert one.is_set()
        assert other.is_set()
        assert not elsewhere.is_set()


async def test_changes_that_come_soon_after_each_other_are_told_once() -> None:
    watchers = Watchers()
    with watchers.on("a") as changed:
        watchers.wake(["a"], within_s=0.01)
        assert not changed.is_set()
        await asyncio.wait_for(changed.wait(), 60)


def test_the_more_follow_the_less_often_each_looks_without_a_change() -> None:
    watchers = Watchers()
    with ExitStack() as following:
        following.enter_context(watchers.on("a"))
        assert watchers.look_again_s == 1
        for number in range(3000):
            following.enter_context(watchers.on(f"job-{number}"))
        assert 3001 / watchers.look_again_s <= 100
    assert watchers.look_again_s == 1


def test_whoever_runs_many_jobs_hears_of_each_end_once_and_of_no_other_change() -> None:
    watchers = Watchers()
    with watchers.ends() as ends:
        for job_id in ("a", "b", "c"):
            ends.add(job_id)
        watchers.wake(["a"])
        assert not ends.news.is_set()
        watchers.ended({"a": None, "b": None, "nobody's": None})
        watchers.ended(["b"])
        assert ends.news.is_set()
        assert ends.take(1) == ["a"]
        ends.remove("b")  # told elsewise
        assert ends.take(10) == []
        assert ends.jobs == {"a", "c"}
    watchers.ended(["a"])
    assert ends.take(10) == []


async def test_a_hub_that_stops_waits_for_none_of_those_who_follow_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STOP_GRACE_S", 1000.0)
    running = AsyncExitStack()
    hub = await running.enter_async_context(service.serving(config(tmp_path / "hub")))
    async with grpc.aio.insecure_channel(hub.grpc_address) as channel:
        caller = Caller(channel)
        job = await caller.submit_new("k1")
        watch = caller.jobs.WatchJob(pb.WatchJobRequest(job_id=job.job_id), metadata=caller.metadata)
        assert (await watch.read()).job.job_id == job.job_id
        run = caller.jobs.RunJobs(metadata=caller.metadata)
        await run.write(pb.RunJobsRequest(items=[pb.SubmitJobRequest(idempotency_key="k1", spec=caller.spec())]))
        assert (await run.read()).accepted[0].job_id == job.job_id
        await asyncio.wait_for(running.aclose(), 60)
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        assert await run.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_looks_away_while_the_hub_stops_is_told_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.server.watchers._LOOK_AGAIN_S", 1000.0)
    watchers = Watchers()
    watchers.stop()
    with watchers.on("a") as changed, pytest.raises(exceptions.NotNow):
        await asyncio.wait_for(watchers.news(changed), 60)
