"""Artifacts on a real S3 server: as on a local disk, and agents fetch and put them directly without any credentials."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from yarl import URL

from hub.config import InvalidConfig
from hub.service import serving
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from sonic.v1 import jobs_pb2
from tests import s3
from tests.postgres import Cluster

from .conftest import config
from .peers import JPEG, MP4, WAV, Agent, Caller, digest
from .test_checkpoints import send
from .test_services import refused


@pytest.fixture
def bucket(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket, which the environment gives access to."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")  # loopback needs no leave
    name = f"sonic-{uuid.uuid4().hex[:8]}"
    s3_server.bucket(name)
    return name


@pytest.fixture
async def channel(bucket: str, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    settings = config(tmp_path / "hub", artifacts_url=f"s3://{bucket}/some/prefix")
    async with serving(settings) as hub, grpc.aio.insecure_channel(hub.grpc_address) as opened:
        yield opened


@pytest.fixture
def caller(channel: grpc.aio.Channel) -> Caller:
    return Caller(channel)


async def put(url: str, data: bytes) -> int:
    async with aiohttp.ClientSession() as http, http.put(URL(url, encoded=True), data=data) as response:
        return response.status


def key(data: bytes) -> str:
    return f"some/prefix/acme/{digest(data)[:2]}/{digest(data)}"


async def download(caller: Caller, sha256: str) -> bytes:
    request = job_pb.DownloadArtifactRequest(sha256=sha256)
    return b"".join([part.chunk async for part in caller.jobs.DownloadArtifact(request, metadata=caller.metadata)])


async def assigned(caller: Caller, agent: Agent) -> fleet_pb.Assignment:
    await agent.join()
    await caller.submit_new("k1")
    return (await agent.hear("assignment")).assignment


def video_of(ref: jobs_pb2.AttemptRef, data: bytes = MP4) -> fleet_pb.PlaceVideoRequest:
    return fleet_pb.PlaceVideoRequest(node_id="n1", ref=ref, sha256=digest(data), size_bytes=len(data))


async def test_uploads_resume_and_downloads_take_a_range(caller: Caller, bucket: str, s3_server: s3.Server) -> None:
    await refused(caller.upload(WAV, stop=200), grpc.StatusCode.FAILED_PRECONDITION)
    status = await caller.jobs.GetArtifact(job_pb.GetArtifactRequest(sha256=digest(WAV)), metadata=caller.metadata)
    assert status.status.received_bytes == 200
    await caller.upload(WAV, offset=200)
    assert await download(caller, digest(WAV)) == WAV
    assert s3_server.objects(bucket) == [key(WAV)]


async def test_an_agent_fetches_and_puts_without_the_hub(
    caller: Caller, channel: grpc.aio.Channel, bucket: str, s3_server: s3.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    agent = Agent(channel)
    assignment = await assigned(caller, agent)
    async with aiohttp.ClientSession() as http:
        for link, data in ((assignment.portrait_url, JPEG), (assignment.voice_url, WAV)):
            async with http.get(URL(link, encoded=True), headers={"Range": "bytes=7-"}) as response:
                assert (response.status, await response.read()) == (206, data[7:])
        async with http.get(URL(assignment.portrait_url.replace("Expires=600", "Expires=700"), encoded=True)) as forged:
            assert forged.status == 403
    place = await agent.fleet.PlaceVideo(video_of(assignment.ref))
    assert place.expires_seconds == 600
    assert await put(place.url, MP4) == 200
    agent.report_video(assignment.ref)
    assert (await agent.hear("result_ack")).result_ack.verdict == fleet_pb.RESULT_VERDICT_COMMITTED
    done = await caller.ended(assignment.ref.job_id)
    assert (done.video.media_type, await download(caller, done.video.sha256)) == ("video/mp4", MP4)
    assert s3_server.objects(bucket) == sorted([key(JPEG), key(WAV), key(MP4)])
    assert "X-Amz" not in caplog.text
    assert s3.SECRET_KEY not in caplog.text


@pytest.mark.parametrize("data", [MP4[:-1] + b"!", MP4 + b"more", None])
async def test_a_video_that_is_not_what_it_is_said_to_be_is_missing(
    caller: Caller, channel: grpc.aio.Channel, bucket: str, s3_server: s3.Server, data: bytes | None
) -> None:
    agent = Agent(channel)
    assignment = await assigned(caller, agent)
    place = await agent.fleet.PlaceVideo(video_of(assignment.ref))
    if data:
        assert await put(place.url, data) == 200
    agent.report_video(assignment.ref)
    assert (await agent.hear("result_ack")).result_ack.verdict == fleet_pb.RESULT_VERDICT_VIDEO_MISSING
    assert key(MP4) not in s3_server.objects(bucket)
    await agent.upload_video(assignment.ref)
    agent.report_video(assignment.ref)
    assert (await agent.hear("result_ack")).result_ack.verdict == fleet_pb.RESULT_VERDICT_COMMITTED


async def test_what_is_put_after_the_check_changes_nothing(caller: Caller, channel: grpc.aio.Channel) -> None:
    agent = Agent(channel)
    assignment = await assigned(caller, agent)
    place = await agent.fleet.PlaceVideo(video_of(assignment.ref))
    await put(place.url, MP4)
    agent.report_video(assignment.ref)
    await agent.hear("result_ack")
    assert await put(place.url, b"forged" * 100) == 200
    assert await download(caller, digest(MP4)) == MP4


async def test_only_the_node_of_an_attempt_gets_a_place_and_not_for_any_size(
    caller: Caller, channel: grpc.aio.Channel
) -> None:
    agent = Agent(channel)
    request = video_of((await assigned(caller, agent)).ref)
    request.size_bytes = 1 << 40
    await refused(agent.fleet.PlaceVideo(request), grpc.StatusCode.RESOURCE_EXHAUSTED)
    request.node_id = "n2"
    await refused(agent.fleet.PlaceVideo(request), grpc.StatusCode.NOT_FOUND)


async def test_a_local_disk_gives_no_links(tmp_path: Path) -> None:
    async with serving(config(tmp_path / "hub")) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
        agent = Agent(channel)
        assignment = await assigned(Caller(channel), agent)
        assert (assignment.portrait_url, assignment.voice_url) == ("", "")
        assert (await agent.fleet.PlaceVideo(video_of(assignment.ref))).url == ""


async def test_an_upload_that_goes_on_at_another_hub_begins_anew(bucket: str, tmp_path: Path, cluster: Cluster) -> None:
    both = {"database_url": cluster.database(), "artifacts_url": f"s3://{bucket}"}
    async with (
        serving(config(tmp_path / "a", hub_id="a", **both)) as a,
        serving(config(tmp_path / "b", hub_id="b", **both)) as b,
        grpc.aio.insecure_channel(a.grpc_address) as to_a,
        grpc.aio.insecure_channel(b.grpc_address) as to_b,
    ):
        here, there = Caller(to_a), Caller(to_b)
        await refused(here.upload(WAV, stop=200), grpc.StatusCode.FAILED_PRECONDITION)
        asked = job_pb.GetArtifactRequest(sha256=digest(WAV))
        assert (await there.jobs.GetArtifact(asked, metadata=there.metadata)).status.received_bytes == 0
        await there.upload(WAV)
        assert (await here.jobs.GetArtifact(asked, metadata=here.metadata)).status.complete
        assert await download(here, digest(WAV)) == WAV


async def test_a_server_that_is_down_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        settings = config(tmp_path / "hub", artifacts_url=server.bucket("sonic"))
        async with serving(settings) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
            caller = Caller(channel)
            server.program.kill()
            await refused(caller.upload(WAV), grpc.StatusCode.UNAVAILABLE)
            server.program.start()
            server.wait_until_listening()
            await caller.upload(WAV, offset=len(WAV))  # nothing has to be sent again
            assert await download(caller, digest(WAV)) == WAV


async def test_a_url_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="artifacts_url is 'ftp://here'"):
        async with serving(config(tmp_path / "hub", artifacts_url="ftp://here")):
            pass


@pytest.mark.parametrize(
    "url", ["s3://KEY:hunter2@bucket/x", "s3://KEY:hun/hunter2@bucket", "s3://KEY@bucket", "s3://bucket?secret=hunter2"]
)
def test_credentials_are_not_taken_from_the_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidConfig, match="credentials come from the environment") as refused:
        config(tmp_path, artifacts_url=url)
    assert "hunter2" not in str(refused.value)
    assert config(tmp_path, artifacts_url="s3://bucket/a@b").artifacts_url


async def test_states_of_renders_are_given_on_and_removed(
    caller: Caller, channel: grpc.aio.Channel, s3_server: s3.Server, bucket: str
) -> None:
    agent = Agent(channel)
    await caller.submit_new("k")
    await agent.join()
    ref = (await agent.hear("assignment")).assignment.ref
    for done, state in ((3, b"early"), (5, b"late")):
        await send(agent, ref, state, done)
    agent.say(heartbeat=fleet_pb.Heartbeat(attempts=[ref]))

    async def becomes(count: int) -> None:
        async with asyncio.timeout(60):
            while sum("/states/" in key for key in s3_server.objects(bucket)) != count:
                await asyncio.sleep(0.05)

    await becomes(1)  # the later one
    await agent.render(ref)
    await becomes(0)
