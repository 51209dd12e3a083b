"""Patience is for a hub that is away; however long one was quiet before, it is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
import pytest

from sonic import exceptions
from sonic.retries import Patience
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import jobs_pb2

AWAY = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "it is away")


async def test_patience_begins_with_the_first_failure_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr("sonic.retries.time.monotonic", lambda: now_s)
    monkeypatch.setattr("sonic.retries.asyncio.sleep", sleep)
    patience = Patience("hub:1", 60)
    for _ in range(2):
        now_s += 3600  # in which all was well
        began_s = now_s
        tries = 0
        with contextlib.suppress(exceptions.HubUnreachable):
            while tries < 1000:
                await patience.pause(AWAY)
                tries += 1
        assert tries < 1000
        assert 50 < now_s - began_s <= 60
        patience.renew()


@pytest.mark.parametrize("way", ["watch", "run"])
async def test_a_job_that_was_quiet_for_longer_than_the_patience_is_followed_across_cuts(
    hub: Any, proxy: Any, client: Any, files: Any, way: str
) -> None:
    from sonic.client import AsyncSonicClient

    job = await client.submit(*files, idempotency_key="k")
    async with AsyncSonicClient(proxy.address, "acme", patience_s=1.0, insecure=True) as hasty:
        seen: list[jobs_pb2.Job] = []

        async def follow() -> None:
            if way == "run":
                seen.append(await hasty.run(pb.SubmitJobRequest(idempotency_key="k", spec=job.spec)))
            else:
                seen.extend([each async for each in hasty.watch(job.job_id)])

        following = asyncio.create_task(follow())
        for _ in range(2):
            await asyncio.sleep(1.5)
            proxy.cut()
        await asyncio.sleep(0.5)
        assert not following.done(), following.exception()
        async with AsyncSonicClient(hub.grpc_address, "acme", insecure=True) as other:
            await other.cancel(job.job_id)
        await asyncio.wait_for(following, 60)
    assert seen[-1].state == jobs_pb2.JOB_STATE_CANCELLED
    revisions = [each.revision for each in seen]
    assert revisions == sorted(revisions)
