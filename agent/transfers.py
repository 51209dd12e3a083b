"""Bytes between an attempt and the hub: its inputs down, its video and its state up."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from agent import direct, wire
from agent.core.attempts import Ref
from agent.inputs import Download
from sonic import statuses
from sonic.v1 import artifacts_pb2
from sonic.v1 import fleet_service_pb2 as pb

if TYPE_CHECKING:  # the stub of an asyncio channel has a type of its own, which is not there at run time
    from sonic.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub as Stub

CALL_TIMEOUT_S = 15.0
SLOWEST_BYTES_PER_S = 50_000  # a transfer slower than this is cut, and goes on in another call
ATTEMPT_OVER = "ATTEMPT_OVER"  # the hub's reason
_log = logging.getLogger("agent.transfers")
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def is_refusal(error: grpc.aio.AioRpcError) -> bool:
    """Whether the hub will say the same to the same call for ever."""
    return error.code() in _REFUSALS and statuses.to_exception(error, "").retry_after_s is None


def is_over(error: grpc.aio.AioRpcError) -> bool:
    """Whether the job has ended, so that the hub takes no video of it."""
    return statuses.to_exception(error, "").reason == ATTEMPT_OVER


def download(hub: Stub, node_id: str, ref: Ref, artifact: artifacts_pb2.Artifact, link: str) -> Download:
    """How to get the bytes of an input of an attempt, from an offset on: once by the link, then through the hub."""
    links = [link] if link else []

    async def chunks(offset_bytes: int) -> AsyncIterator[bytes]:
        while links:
            try:
                async for chunk in direct.get(links.pop(), offset_bytes):
                    offset_bytes += len(chunk)
                    yield chunk
            except direct.Failed as error:
                _log.info("an input is fetched through the hub", extra={"ref": str(ref), "why": str(error)})
        if offset_bytes >= artifact.size_bytes:
            return
        request = pb.FetchInputRequest(
            node_id=node_id,
            ref=wire.ref_message(ref),
            sha256=artifact.sha256,
            range=artifacts_pb2.ByteRange(offset_bytes=offset_bytes),
        )
        async for message in hub.FetchInput(request, timeout=_timeout_s(artifact.size_bytes - offset_bytes)):
            yield message.chunk

    return chunks


async def put_directly(hub: Stub, node_id: str, ref: Ref, video: artifacts_pb2.Artifact, path: Path) -> bool:
    """Put a video where the hub says; False when there is no such place. Raises grpc.aio.AioRpcError, OSError."""
    named = wire.ref_message(ref)
    asked = pb.PlaceVideoRequest(node_id=node_id, ref=named, sha256=video.sha256, size_bytes=video.size_bytes)
    try:
        link = (await hub.PlaceVideo(asked, timeout=CALL_TIMEOUT_S)).url
        if not link:
            return False
        async with asyncio.timeout(_timeout_s(video.size_bytes)):
            await direct.put(link, path)
        return True
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    except (direct.Failed, TimeoutError) as error:
        _log.info("a video is sent through the hub", extra={"ref": str(ref), "why": str(error)})
    return False


async def upload(
    hub: Stub, node_id: str, ref: Ref, video: artifacts_pb2.Artifact, path: Path, chunk_bytes: int
) -> None:
    """Bring a video to the hub, from where an earlier call stopped. Raises grpc.aio.AioRpcError, OSError."""
    named = wire.ref_message(ref)
    asked = pb.GetVideoRequest(node_id=node_id, ref=named, sha256=video.sha256)
    status = (await hub.GetVideo(asked, timeout=CALL_TIMEOUT_S)).status
    if status.complete:
        return
    offset = status.received_bytes
    header = artifacts_pb2.UploadHeader(sha256=video.sha256, size_bytes=video.size_bytes, offset_bytes=offset)
    await _send(hub, pb.VideoHeader(node_id=node_id, ref=named, upload=header), path, chunk_bytes)


async def upload_checkpoint(hub: Stub, node_id: str, ref: Ref, path: Path, chunk_bytes: int) -> artifacts_pb2.Artifact:
    """Bring the state of an attempt to the hub. Raises grpc.aio.AioRpcError, OSError."""

    def told() -> artifacts_pb2.Artifact:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return artifacts_pb2.Artifact(sha256=sha256, size_bytes=file.tell())

    state = await asyncio.to_thread(told)
    upload = artifacts_pb2.UploadHeader(sha256=state.sha256, size_bytes=state.size_bytes)
    header = pb.VideoHeader(node_id=node_id, ref=wire.ref_message(ref), upload=upload, checkpoint=True)
    await _send(hub, header, path, chunk_bytes)
    return state


async def _send(hub: Stub, header: pb.VideoHeader, path: Path, chunk_bytes: int) -> None:
    offset = header.upload.offset_bytes
    trouble: OSError | None = None

    async def parts() -> AsyncIterator[pb.UploadVideoRequest]:
        nonlocal trouble
        yield pb.UploadVideoRequest(header=header)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while chunk := file.read(chunk_bytes):
                    yield pb.UploadVideoRequest(chunk=chunk)
        except OSError as error:
            trouble = error
            raise

    try:
        await hub.UploadVideo(parts(), timeout=_timeout_s(header.upload.size_bytes - offset))
    except asyncio.CancelledError:
        if trouble:  # for which gRPC has cancelled its call, and nobody this task
            raise trouble from None
        raise


def _timeout_s(size_bytes: int) -> float:
    return CALL_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S
