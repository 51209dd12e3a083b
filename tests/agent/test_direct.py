"""A real agent with a real hub whose files are on S3: bytes pass directly, and through the hub when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import obstore
import pytest
from obstore.store import S3Store

from agent import direct
from hub import exceptions
from hub.server.fleet_service import FleetService
from hub.service import Hub, serving
from sonic.v1 import jobs_pb2
from tests import s3
from tests.hub.conftest import config
from tests.hub.peers import JPEG, Caller, digest

from .conftest import Start

if TYPE_CHECKING:
    from obstore.store import S3Config

OK = b"ok"  # a voice, for the worker's double


@pytest.fixture
def no_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise exceptions.NotFound("not through the hub")

    monkeypatch.setattr(FleetService, "FetchInput", refuse)
    monkeypatch.setattr(FleetService, "UploadVideo", refuse)


@pytest.fixture
async def real_hub(s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url = s3_server.bucket(f"direct-{tmp_path.name.replace('_', '-')[-40:]}")
    async with serving(config(tmp_path / "hub", artifacts_url=url, heartbeat_interval_s=0.5, lease_s=20)) as running:
        yield running


async def rendered(hub: Hub) -> jobs_pb2.Job:
    async with grpc.aio.insecure_channel(hub.grpc_address) as channel:
        caller = Caller(channel)
        await caller.upload(JPEG)
        await caller.upload(OK)
        spec = jobs_pb2.JobSpec(portrait_sha256=digest(JPEG), voice_sha256=digest(OK))
        caller.spec = lambda **_: spec  # type: ignore[method-assign]
        return await caller.ended((await caller.submit("k1")).job_id)


async def test_files_pass_directly(no_detour: None, real_hub: Hub, start: Start) -> None:
    agent = await start(hub=real_hub.grpc_address)
    job = await rendered(real_hub)
    await agent.kill()
    assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job.failure
    assert not [line for line in agent.log if "through the hub" in line["message"]]
    assert "X-Amz" not in str(agent.log) + agent.words


async def test_what_cannot_pass_directly_goes_through_the_hub(
    real_hub: Hub, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = "hub.artifacts.depot.obstore."
    forged = "http://127.0.0.1:9/nowhere?X-Amz-Signature=none"

    async def sign_async(*_: object) -> str:
        return forged

    monkeypatch.setattr(f"{sign}sign", lambda *_: forged)
    monkeypatch.setattr(f"{sign}sign_async", sign_async)
    agent = await start(hub=real_hub.grpc_address)
    job = await rendered(real_hub)
    await agent.kill()
    assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job.failure
    said = [line["message"] for line in agent.log]
    assert said.count("an input is fetched through the hub") == 2
    assert said.count("a video is sent through the hub") == 1
    assert "X-Amz" not in str(agent.log) + agent.words


async def test_a_fetch_goes_on_from_an_offset_and_a_link_ends(s3_server: s3.Server) -> None:
    s3_server.bucket("offsets")
    store = S3Store("offsets", client_options={"allow_http": True}, config=_access(s3_server))
    await obstore.put_async(store, "key", JPEG)
    lasting, brief = [await obstore.sign_async(store, "GET", "key", timedelta(seconds=life_s)) for life_s in (600, 1)]
    assert b"".join([chunk async for chunk in direct.get(lasting, 7)]) == JPEG[7:]
    await asyncio.sleep(2.1)
    with pytest.raises(direct.Failed, match="403"):
        async for _ in direct.get(brief, 0):
            pass


def _access(server: s3.Server) -> S3Config:
    known = {"endpoint": server.endpoint, "access_key_id": s3.ACCESS_KEY, "secret_access_key": s3.SECRET_KEY}
    return {**known, "region": s3.REGION}  # type: ignore[typeddict-item]


async def test_a_link_that_is_no_link_fails_like_any_other() -> None:
    with pytest.raises(direct.Failed):
        async for _ in direct.get("not a link", 0):
            pass
