"""A caller and an agent that speak the wire to a real hub."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from sonic.v1 import (
    admin_service_pb2_grpc,
    artifacts_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2_grpc,
    jobs_pb2,
    nodes_pb2,
)
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from tests.calls import answered

JPEG = b"\xff\xd8\xff" + b"portrait" * 100
WAV = b"RIFF\x00\x00\x00\x00WAVE" + b"voice" * 100
MP4 = b"\x00\x00\x00\x20ftypisom" + b"video" * 100


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Caller:
    """A tenant's client, call by call."""

    def __init__(self, channel: grpc.aio.Channel, tenant: str = "acme") -> None:
        self.jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.metadata = (("sonic-tenant", tenant),)

    async def upload(self, data: bytes, *, offset: int = 0, stop: int | None = None, sha256: str = "") -> Any:
        header = artifacts_pb2.UploadHeader(sha256=sha256 or digest(data), size_bytes=len(data), offset_bytes=offset)

        async def parts() -> AsyncIterator[job_pb.UploadArtifactRequest]:
            yield job_pb.UploadArtifactRequest(header=header)
            for at in range(offset, len(data) if stop is None else stop, 100):
                yield job_pb.UploadArtifactRequest(chunk=data[at : min(at + 100, stop or len(data))])

        return await answered(lambda: self.jobs.UploadArtifact(parts(), metadata=self.metadata))

    def spec(self, **about: Any) -> jobs_pb2.JobSpec:
        return jobs_pb2.JobSpec(**{"portrait_sha256": digest(JPEG), "voice_sha256": digest(WAV)} | about)

    async def submit(self, key: str, **about: Any) -> jobs_pb2.Job:
        request = job_pb.SubmitJobRequest(idempotency_key=key, spec=self.spec(**about))
        return (await self.jobs.SubmitJob(request, metadata=self.metadata)).job

    async def submit_new(self, key: str, **about: Any) -> jobs_pb2.Job:
        await self.upload(JPEG)
        await self.upload(WAV)
        return await self.submit(key, **about)

    async def get(self, job_id: str) -> jobs_pb2.Job:
        return (await self.jobs.GetJob(job_pb.GetJobRequest(job_id=job_id), metadata=self.metadata)).job

    async def ended(self, job_id: str) -> jobs_pb2.Job:
        watch = self.jobs.WatchJob(job_pb.WatchJobRequest(job_id=job_id), metadata=self.metadata)
        return [response.job async for response in watch][-1]


class Agent:
    """One node with one slot; every step is taken by the test."""

    def __init__(self, channel: grpc.aio.Channel, node_id: str = "n1", region: str = "eu") -> None:
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(channel)
        self.node_id, self.region = node_id, region
        self.outgoing: asyncio.Queue[fleet_pb.SessionRequest] = asyncio.Queue()
        self.call: Any = None

    async def join(self, **holds: Any) -> fleet_pb.Welcome:
        engines = [nodes_pb2.EngineInfo(engine="warp", model_version="1")]
        slot = nodes_pb2.Slot(index=0, state=nodes_pb2.SLOT_STATE_READY, engines=engines, probe_realtime_factor=2.0)
        about = {"agent_version": "test"} | holds
        hello = fleet_pb.Hello(node_id=self.node_id, region=self.region, slots=[slot], **about)
        self.outgoing = asyncio.Queue()
        self.say(hello=hello)
        self.call = self.fleet.Session(self._messages(self.outgoing))
        return (await self.hear("welcome")).welcome

    @staticmethod
    async def _messages(queue: asyncio.Queue[fleet_pb.SessionRequest]) -> AsyncIterator[fleet_pb.SessionRequest]:
        while True:
            yield await queue.get()

    def say(self, **message: Any) -> None:
        self.outgoing.put_nowait(fleet_pb.SessionRequest(**message))

    async def hear(self, kind: str) -> fleet_pb.SessionResponse:
        """The next message, which must be of this kind."""
        message = await asyncio.wait_for(self.call.read(), 60)
        assert message is not grpc.aio.EOF, f"the session ended instead of {kind}"
        assert message.WhichOneof("message") == kind, message
        return message

    def cut(self) -> None:
        self.call.cancel()

    async def upload_video(self, ref: jobs_pb2.AttemptRef, data: bytes = MP4) -> artifacts_pb2.Artifact:
        upload = artifacts_pb2.UploadHeader(sha256=digest(data), size_bytes=len(data))

        async def parts() -> AsyncIterator[fleet_pb.UploadVideoRequest]:
            yield fleet_pb.UploadVideoRequest(header=fleet_pb.VideoHeader(node_id=self.node_id, ref=ref, upload=upload))
            yield fleet_pb.UploadVideoRequest(chunk=data)

        return (await answered(lambda: self.fleet.UploadVideo(parts()))).video

    def report_video(self, ref: jobs_pb2.AttemptRef, data: bytes = MP4) -> None:
        video = artifacts_pb2.Artifact(sha256=digest(data), size_bytes=len(data), media_type="video/mp4")
        self.say(result=fleet_pb.AttemptResult(ref=ref, video=fleet_pb.RenderedVideo(video=video)))

    async def render(self, ref: jobs_pb2.AttemptRef) -> fleet_pb.ResultAck:
        self.say(started=fleet_pb.AttemptStarted(ref=ref))
        await self.upload_video(ref)
        self.report_video(ref)
        return (await self.hear("result_ack")).result_ack
