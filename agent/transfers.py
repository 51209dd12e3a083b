"""Bytes between an attempt and the hub: its inputs down, its video up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from agent import wire
from agent.core.attempts import Ref
from agent.inputs import Download
from sonic.v1 import artifacts_pb2
from sonic.v1 import fleet_service_pb2 as pb

if TYPE_CHECKING:  # the stub of an asyncio channel has a type of its own, which is not there at run time
    from sonic.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub as Stub

CALL_TIMEOUT_S = 15.0
SLOWEST_BYTES_PER_S = 50_000  # a transfer slower than this is cut, and goes on in another call
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def download(hub: Stub, node_id: str, ref: Ref, artifact: artifacts_pb2.Artifact) -> Download:
    """How to get the bytes of an input of an attempt, from an offset on."""

    async def chunks(offset_bytes: int) -> AsyncIterator[bytes]:
        request = pb.FetchInputRequest(
            node_id=node_id,
            ref=wire.ref_message(ref),
            sha256=artifact.sha256,
            range=artifacts_pb2.ByteRange(offset_bytes=offset_bytes),
        )
        async for message in hub.FetchInput(request, timeout=_timeout_s(artifact.size_bytes - offset_bytes)):
            yield message.chunk

    return chunks


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

    async def parts() -> AsyncIterator[pb.UploadVideoRequest]:
        yield pb.UploadVideoRequest(header=pb.VideoHeader(node_id=node_id, ref=named, upload=header))
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(chunk_bytes):
                yield pb.UploadVideoRequest(chunk=chunk)

    await hub.UploadVideo(parts(), timeout=_timeout_s(video.size_bytes - offset))


def _timeout_s(size_bytes: int) -> float:
    return CALL_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S
