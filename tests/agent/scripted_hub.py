"""The hub's side of the wire, as the contract has it, on a real server and under a test's control."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from sonic.bundles import unbundled
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc, jobs_pb2, metrics_pb2, nodes_pb2
from sonic.v1 import fleet_service_pb2 as pb
from tests.processes import free_port

PATIENCE_S = 60.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ScriptedHub(fleet_service_pb2_grpc.FleetServiceServicer):
    """Notes what agents say; says what the test wants said."""

    def __init__(self) -> None:
        self.heard: list[pb.SessionRequest] = []
        self.bundles = 0  # messages that have brought more
        self.inputs: dict[str, bytes] = {}
        self.videos: dict[str, bytes] = {}
        self.served: list[tuple[str, int]] = []  # hash and offset of each FetchInput
        self.cut_inputs_after: list[int] = []  # bytes; one entry is used up per FetchInput
        self.acknowledging = True
        self.sampling_interval_s, self.late_samples = 0.0, False
        self.acknowledging_samples = False
        self.takes_several = False
        self._news = asyncio.Condition()
        self._outgoing: asyncio.Queue[pb.SessionResponse | None] | None = None
        self._server: grpc.aio.Server | None = None
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, on the same port each time."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(None)

    # What a test does.

    def say(self, **message: Any) -> None:
        assert self._outgoing
        self._outgoing.put_nowait(pb.SessionResponse(**message))

    def cut(self) -> None:
        """End the session."""
        assert self._outgoing
        self._outgoing.put_nowait(None)

    def assign(
        self, job_id: str, voice: bytes, portrait: bytes = b"portrait", attempt: int = 1, slot: int = 0, **more: Any
    ) -> None:
        """Give an attempt to the agent; the voice tells the double what to do."""
        self.inputs |= {sha256(data): data for data in (portrait, voice)}
        self.say(
            assignment=pb.Assignment(
                ref=jobs_pb2.AttemptRef(job_id=job_id, attempt=attempt),
                slot=slot,
                tenant="acme",
                spec=jobs_pb2.JobSpec(engine="warp"),
                portrait=artifacts_pb2.Artifact(sha256=sha256(portrait), size_bytes=len(portrait)),
                voice=artifacts_pb2.Artifact(sha256=sha256(voice), size_bytes=len(voice)),
            ),
            **more,
        )

    async def until(self, told: Callable[[pb.SessionRequest], bool], since: int = 0) -> pb.SessionRequest:
        """The first message from number `since` on that fits; fails with all messages when none comes."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._news:
                while True:
                    for message in self.heard[since:]:
                        if told(message):
                            return message
                    await self._news.wait()
        except TimeoutError:
            heard = "\n".join(str(message).replace("\n", " ") for message in self.heard)
            raise AssertionError(f"nothing fitting was heard in:\n{heard}") from None

    async def hello(self, since: int = 0) -> pb.Hello:
        return (await self.until(lambda message: message.HasField("hello"), since)).hello

    async def slot_is(self, state: nodes_pb2.SlotState.ValueType, since: int = 0) -> nodes_pb2.Slot:
        def fits(message: pb.SessionRequest) -> bool:
            return any(slot.state == state for slot in message.heartbeat.slots)

        return (await self.until(fits, since)).heartbeat.slots[0]

    async def started(self, job_id: str) -> None:
        await self.until(lambda message: message.started.ref.job_id == job_id)

    async def result(self, job_id: str, since: int = 0) -> pb.AttemptResult:
        message = await self.until(lambda message: message.result.ref.job_id == job_id, since)
        return message.result

    # FleetService.

    async def Session(self, request: AsyncIterator[pb.SessionRequest], context: Any) -> AsyncIterator[Any]:
        outgoing: asyncio.Queue[pb.SessionResponse | None] = asyncio.Queue()
        listener = asyncio.create_task(self._listen(request, outgoing), name="listener")
        try:
            while (message := await outgoing.get()) is not None:
                yield message
        finally:
            listener.cancel()

    async def _listen(self, request: AsyncIterator[pb.SessionRequest], outgoing: asyncio.Queue[Any]) -> None:
        async for message in self._one_by_one(request):
            if message.HasField("hello"):
                self._outgoing = outgoing
                welcome = pb.Welcome(
                    session_id="s",
                    heartbeat_interval_seconds=0.5,
                    max_upload_chunk_bytes=64,
                    sampling_interval_seconds=self.sampling_interval_s,
                    late_samples=self.late_samples,
                    takes_several=self.takes_several,
                )
                outgoing.put_nowait(pb.SessionResponse(welcome=welcome))
            if message.heartbeat.echo:
                outgoing.put_nowait(pb.SessionResponse(echo=pb.Echo(echo=message.heartbeat.echo)))
            if message.HasField("result") and self.acknowledging:
                outgoing.put_nowait(pb.SessionResponse(result_ack=self._judge(message.result)))
            if message.HasField("samples") and self.acknowledging_samples:
                ack = metrics_pb2.SamplesAck(sequences=[message.samples.sequence])
                outgoing.put_nowait(pb.SessionResponse(samples_ack=ack))
            async with self._news:
                self.heard.append(message)
                self._news.notify_all()
        outgoing.put_nowait(None)

    def _judge(self, result: pb.AttemptResult) -> pb.ResultAck:
        missing = result.HasField("video") and result.video.video.sha256 not in self.videos
        verdict = pb.RESULT_VERDICT_VIDEO_MISSING if missing else pb.RESULT_VERDICT_COMMITTED
        return pb.ResultAck(ref=result.ref, verdict=verdict)

    async def FetchInput(self, request: pb.FetchInputRequest, context: Any) -> AsyncIterator[pb.FetchInputResponse]:
        self.served.append((request.sha256, request.range.offset_bytes))
        if request.sha256 not in self.inputs:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such input")
        data = self.inputs[request.sha256][request.range.offset_bytes :]
        if self.cut_inputs_after:
            yield pb.FetchInputResponse(chunk=data[: self.cut_inputs_after.pop(0)])
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        yield pb.FetchInputResponse(chunk=data)

    async def GetVideo(self, request: pb.GetVideoRequest, context: Any) -> pb.GetVideoResponse:
        complete = request.sha256 in self.videos
        return pb.GetVideoResponse(status=artifacts_pb2.ArtifactStatus(sha256=request.sha256, complete=complete))

    async def UploadVideo(self, request: AsyncIterator[pb.UploadVideoRequest], context: Any) -> pb.UploadVideoResponse:
        parts = [part async for part in request]
        upload, data = parts[0].header.upload, b"".join(part.chunk for part in parts[1:])
        if sha256(data) != upload.sha256:
            await context.abort(grpc.StatusCode.DATA_LOSS, "bytes differ")
        self.videos[upload.sha256] = data
        return pb.UploadVideoResponse(video=artifacts_pb2.Artifact(sha256=upload.sha256, size_bytes=len(data)))

    async def _one_by_one(self, request: AsyncIterator[pb.SessionRequest]) -> AsyncIterator[pb.SessionRequest]:
        async for bundled in request:
            self.bundles += bool(bundled.more)
            for message in unbundled(bundled):
                yield message
