"""Files to and from the hub: named by their SHA-256, resumed after a cut, and never left half-written."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import grpc
import grpc.aio

from sonic import exceptions
from sonic.connection import Connection
from sonic.retries import Patience
from sonic.v1 import artifacts_pb2
from sonic.v1.job_service_pb2 import DownloadArtifactRequest, GetArtifactRequest, UploadArtifactRequest

CHUNK_BYTES = 1 << 20
# Somebody else may be sending the same bytes, and the hub throws a spoilt beginning away.
_RESUMABLE = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DATA_LOSS)


def sha256_of(path: Path) -> str:
    """64 lower-case hexadecimal digits. Raises FileTrouble."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise exceptions.FileTrouble(f"{path} cannot be read: {error.strerror}") from error


async def upload(hub: Connection, path: Path, sha256: str, span: range | None = None) -> artifacts_pb2.Artifact:
    """Send what the hub lacks of a file, or of a span of its bytes, of a known hash. Raises HubError, FileTrouble."""
    patience = hub.patience()
    received = 0
    while True:
        status = (await hub.call(hub.jobs.GetArtifact, GetArtifactRequest(sha256=sha256))).status
        if status.complete:
            return status.artifact
        if status.received_bytes > received:
            received = status.received_bytes
            patience.renew()
        try:
            return await _send(hub, path, sha256, status.received_bytes, span, patience)
        except grpc.aio.AioRpcError as error:
            await patience.pause(error, also=_RESUMABLE)


async def _send(
    hub: Connection, path: Path, sha256: str, offset: int, span: range | None, patience: Patience
) -> artifacts_pb2.Artifact:
    call = hub.jobs.UploadArtifact(metadata=hub.metadata)
    try:
        with path.open("rb") as file:
            span = span or range(os.fstat(file.fileno()).st_size)
            file.seek(span.start + offset)
            header = artifacts_pb2.UploadHeader(sha256=sha256, size_bytes=len(span), offset_bytes=offset)
            await patience.listen(call)
            await call.write(UploadArtifactRequest(header=header))
            await patience.listen(call)
            while chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, span.stop - file.tell())):
                await call.write(UploadArtifactRequest(chunk=chunk))
        await call.done_writing()
    except asyncio.InvalidStateError:
        pass  # the hub has answered before the end; its answer says why
    except OSError as error:
        call.cancel()
        raise exceptions.FileTrouble(f"{path} cannot be read: {error.strerror}") from error
    except BaseException:
        call.cancel()
        raise
    return (await call).artifact


async def download(hub: Connection, sha256: str, destination: Path) -> Path:
    """Fetch an artifact; `destination` appears whole and checked, or not at all. Raises HubError, FileTrouble.

    What has arrived is kept beside it, so that even a later run goes on from there.
    """
    part = destination.with_name(f".{destination.name}.{sha256[:16]}.part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        await _receive(hub, sha256, part)
        if await asyncio.to_thread(sha256_of, part) != sha256:
            part.unlink()
            raise exceptions.BytesDiffer(f"what arrived for {destination} is not {sha256}; it was removed, try again")
        part.replace(destination)
    except OSError as error:
        raise exceptions.FileTrouble(f"{destination} cannot be written: {error.strerror}") from error
    return destination


async def _receive(hub: Connection, sha256: str, part: Path) -> None:
    patience = hub.patience()
    with part.open("ab") as file:
        while True:
            wanted = artifacts_pb2.ByteRange(offset_bytes=file.tell())
            request = DownloadArtifactRequest(sha256=sha256, range=wanted)
            call = hub.jobs.DownloadArtifact(request, metadata=hub.metadata)
            try:
                async for response in call:
                    await asyncio.to_thread(file.write, response.chunk)
                    patience.renew()
                return
            except grpc.aio.AioRpcError as error:
                await patience.pause(error)
            finally:
                call.cancel()
