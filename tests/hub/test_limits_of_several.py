"""The limits of tenants hold over all hubs of a database, at the very moment at which several come up to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
import sqlalchemy as sa
from google.rpc import error_details_pb2

from sonic.v1 import jobs_pb2
from tests.postgres import Cluster

from .peers import JPEG, WAV, Caller
from .test_kill import Node
from .test_services import details
from .test_several_hubs import one_hub
from .test_tenant_limits import written

_RUNNING = "SELECT count(*) FROM jobs WHERE state IN ('assigned', 'running')"


@pytest.fixture
def url(cluster: Cluster) -> str:
    return cluster.database()


async def test_as_many_jobs_wait_as_may_however_many_hubs_take_them(tmp_path: Path, url: str) -> None:
    limits = {"tenants_file": written(tmp_path, "[tenant.acme]\nmax_queued = 20\n")}
    async with one_hub(tmp_path, "a", url, **limits) as (_, a), one_hub(tmp_path, "b", url, **limits) as (_, b):
        callers = [Caller(a), Caller(b)]
        for data in (JPEG, WAV):
            await callers[0].upload(data)
        calls = [callers[number % 2].submit(f"k{number}") for number in range(100)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        taken = [answer for answer in answers if isinstance(answer, jobs_pb2.Job)]
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert (len(taken), len(refused)) == (20, 80)
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for error in refused:
            assert details(error, error_details_pb2.QuotaFailure).violations[0].subject == "queued jobs of tenant acme"
            assert details(error, error_details_pb2.RetryInfo).retry_delay.seconds
        for caller in callers:  # a repeat of what was taken is answered, at the hub that did not take it too
            assert (await caller.submit(taken[0].idempotency_key)).job_id == taken[0].job_id


async def test_as_many_jobs_run_as_may_however_many_hubs_give_them_away(tmp_path: Path, url: str) -> None:
    limits = {"tenants_file": written(tmp_path, "[tenant.acme]\nmax_running = 3\n")}
    database = sa.create_engine(url)
    seen: list[int] = []

    async def look() -> None:
        while True:
            with database.connect() as connection:
                seen.append(connection.exec_driver_sql(_RUNNING).scalar_one())
            await asyncio.sleep(0.005)

    async with one_hub(tmp_path, "a", url, **limits) as (_, a), one_hub(tmp_path, "b", url, **limits) as (_, b):
        callers = [Caller(a), Caller(b)]
        nodes = [Node(channel, f"n{number}") for number, channel in enumerate([a, b] * 6)]
        working = [asyncio.create_task(work) for work in (look(), *(node.work() for node in nodes))]
        for data in (JPEG, WAV):
            await callers[0].upload(data)
        jobs = await asyncio.gather(*(callers[number % 2].submit(f"k{number}") for number in range(60)))
        ended = await asyncio.gather(*(callers[0].ended(job.job_id) for job in jobs))
        for task in working:
            task.cancel()
        await asyncio.wait(working)
    database.dispose()
    assert all(job.state == jobs_pb2.JOB_STATE_SUCCEEDED for job in ended)
    assert all(len(job.attempts) == 1 for job in ended)
    assert max(seen) == 3
