"""For whom calls are counted at a hub that asks for credentials: by key, by certificate, and strangers by address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from agent import transfers as agents_transfers
from agent.config import InvalidConfig
from agent.enrolment import NotReached, enrol, identity_of
from agent.identity import IdentityFolder
from hub.server import failures
from sonic.client import AsyncSonicClient
from sonic.join_tokens import JoinToken
from sonic.v1 import access_pb2, jobs_pb2
from sonic.v1 import admin_service_pb2 as admin_pb
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb

from .peers import JPEG, MP4, digest
from .secured import secured
from .test_services import details, refused


async def exhausted(calls: Iterable[Awaitable[Any]]) -> grpc.aio.AioRpcError:
    """One of the refusals, of which there has to be one, for too many calls."""
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(answer, grpc.aio.AioRpcError) and answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return answer
    pytest.fail("all calls were let in")


async def test_too_many_calls_of_a_key_are_refused_with_the_time_to_come_back(tmp_path: Path) -> None:
    async with secured(tmp_path, max_calls_per_s=1.0) as at, at.caller() as caller, at.caller("other") as other:
        asked = job_pb.GetArtifactRequest(sha256=digest(JPEG))
        error = await exhausted(caller.jobs.GetArtifact(asked, metadata=caller.metadata) for _ in range(20))
        delay = details(error, error_details_pb2.RetryInfo).retry_delay
        assert 0 < delay.ToNanoseconds() <= 1e9
        assert details(error, error_details_pb2.ErrorInfo).reason == "TOO_MANY_CALLS"
        assert not agents_transfers.is_refusal(error)
        await other.jobs.GetArtifact(asked, metadata=other.metadata)
        assert await at.operator.nodes() == []
        (tmp_path / "key").write_text(dict(caller.metadata)["authorization"].removeprefix("Bearer "))
        settings = {"ca_file": at.ca_file, "api_key_file": tmp_path / "key"}
        async with AsyncSonicClient(at.hub.grpc_address, **settings) as client:  # comes back when it is welcome
            assert [job async for job in client.jobs()] == []


async def test_calls_that_are_not_for_a_key_count_too_and_fill_no_log(tmp_path: Path) -> None:
    async with secured(tmp_path, max_calls_per_s=1.0) as at, at.caller() as caller:
        asked = admin_pb.DrainNodeRequest(node_id="n" * 100_000)
        await exhausted(caller.admin.DrainNode(asked, metadata=caller.metadata) for _ in range(100))
        kept = [line for line in (at.folder / "hub/audit.log").read_text().splitlines() if "DrainNode" in line]
        assert 0 < len(kept) < 50
        assert max(map(len, kept)) < 1000


async def test_calls_of_a_suspended_tenant_count_too(tmp_path: Path) -> None:
    async with secured(tmp_path, max_calls_per_s=1.0) as at, at.caller() as caller:
        await at.operator.access.suspend("acme")
        error = await refused(caller.get("j"), grpc.StatusCode.PERMISSION_DENIED)
        assert "suspended" in (error.details() or "")
        await exhausted(caller.get("j") for _ in range(20))


async def test_too_many_open_calls_of_a_key_are_refused_until_one_ends(tmp_path: Path) -> None:
    async with secured(tmp_path, max_open_calls=2) as at, at.caller() as caller, at.caller("other") as other:
        job = await caller.submit_new("k")
        watch = job_pb.WatchJobRequest(job_id=job.job_id)
        open_calls = [caller.jobs.WatchJob(watch, metadata=caller.metadata) for _ in range(2)]
        for call in open_calls:
            await call.read()
        error = await refused(caller.get(job.job_id), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert details(error, error_details_pb2.RetryInfo)
        await other.upload(JPEG)
        open_calls[0].cancel()
        async with asyncio.timeout(60):
            while True:
                try:
                    await caller.get(job.job_id)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)


async def test_a_tenants_two_keys_are_two_callers(tmp_path: Path) -> None:
    """A program of a tenant that runs wild does not keep its other ones away."""
    async with secured(tmp_path, max_calls_per_s=1.0) as at, at.caller() as wild:
        key = await at.operator.access.create_key(access_pb2.ROLE_TENANT, "the other program", "acme")
        asked = job_pb.GetArtifactRequest(sha256=digest(JPEG))
        await exhausted(wild.jobs.GetArtifact(asked, metadata=wild.metadata) for _ in range(20))
        await wild.jobs.GetArtifact(asked, metadata=(("authorization", f"Bearer {key.secret_text}"),))


async def test_a_node_is_counted_by_its_certificate_whatever_it_says(tmp_path: Path) -> None:
    async with secured(tmp_path, max_calls_per_s=1.0, max_open_calls=20) as at:
        wild, calm = await at.enrolled("n1"), await at.enrolled("n2")
        async with at.agent(wild, "n1") as agent, at.agent(wild, "n2") as masked, at.agent(calm, "n2") as other:
            await agent.join()
            ref = jobs_pb2.AttemptRef(job_id="j", attempt=1)
            calls = [
                one.fleet.GetVideo(fleet_pb.GetVideoRequest(node_id=one.node_id, ref=ref, sha256=digest(MP4)))
                for one in (agent, masked) * 15
            ]
            await exhausted(calls)
            assert (await other.join()).session_id
            agent.say(heartbeat=fleet_pb.Heartbeat(echo=7))  # its session stands
            assert (await agent.hear("echo")).echo.echo == 7


async def test_who_has_no_credential_is_counted_by_address_and_shuts_out_nobody_who_has(tmp_path: Path) -> None:
    async with secured(tmp_path, max_calls_per_s=1.0) as at:
        box = at.box(await at.token())
        roots = grpc.ssl_channel_credentials(at.ca_file.read_bytes())
        async with grpc.aio.secure_channel(at.hub.grpc_address, roots) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            await exhausted(check(b"") for _ in range(20))
        assert await at.operator.nodes() == []
        assert await identity_of(box)  # waits until it is welcome


async def test_join_tokens_that_are_guessed_are_bounded_and_a_box_with_a_good_one_comes_later(
    tmp_path: Path,
) -> None:
    async with secured(tmp_path) as at:
        right = await at.token()
        guess = replace(JoinToken.of(right), secret="0" * 64)
        refusals = await asyncio.gather(
            *(identity_of(at.box(guess.text, f"n{number}")) for number in range(int(failures.FAILURES_PER_MINUTE))),
            return_exceptions=True,
        )
        assert all("none of this hub's" in str(one) for one in refusals)
        with pytest.raises(InvalidConfig, match="none of this hub's"):
            await identity_of(at.box(guess.text))
        with pytest.raises(NotReached, match="30 a minute may fail"):
            await enrol(at.box(right), IdentityFolder(tmp_path / "n1" / "data"))
        assert await at.operator.nodes() == []
        assert await identity_of(at.box(right))
        lines = [json.loads(line) for line in (tmp_path / "hub" / "audit.log").read_text().splitlines()]
        assert sum(one["outcome"].startswith("refused") for one in lines) <= failures.FAILURES_PER_MINUTE + 3
