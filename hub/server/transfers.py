"""Uploads and downloads of artifacts, the same for callers and for agents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import sqlalchemy as sa

from hub import exceptions
from hub.artifacts.depot import Depot, Stored, check_hash
from hub.core.jobs import Ref
from hub.core.tenants import Tenant
from hub.store import records
from hub.store.artifacts import KnownArtifacts
from sonic.parameters import Problem
from sonic.v1 import artifacts_pb2

IDLE_TIMEOUT_S = 30.0
SLOWEST_BYTES_PER_S = 1000.0  # of an upload, once it has gone on for two such times


class Transfers:
    """The depot's bytes together with the store's knowledge of who owns them."""

    def __init__(self, database: sa.Engine, known: KnownArtifacts, depot: Depot) -> None:
        self._database = database
        self._known = known
        self._depot = depot

    async def find(self, tenant: Tenant, sha256: str) -> artifacts_pb2.Artifact | None:
        """A complete artifact of the tenant, or None. Raises InvalidRequest."""
        check_hash(sha256)

        def read() -> sa.Row[Any] | None:
            with self._database.connect() as connection:
                return records.artifact(connection, tenant, sha256)

        try:
            row = await asyncio.to_thread(read)
        except sa.exc.SQLAlchemyError as error:
            raise exceptions.NotNow("the hub's database does not answer", 5.0) from error
        return _message(row) if row else None

    def remembered(self, tenant: Tenant, sha256: str) -> artifacts_pb2.Artifact | None:
        """An artifact that was seen a moment ago."""
        row = self._known.seen(tenant, (sha256,)).get(sha256)
        return _message(row) if row else None

    async def seen(self, tenant: Tenant, sha256: str) -> artifacts_pb2.Artifact | None:
        """`find`, answered from memory where that is a moment old."""
        check_hash(sha256)
        row = (await self.held(tenant, (sha256,))).get(sha256)
        return _message(row) if row else None

    async def held(self, tenant: Tenant, hashes: Iterable[str]) -> dict[str, sa.Row[Any]]:
        """Those of the artifacts that the tenant has, by hash; what was seen a moment ago is not asked for again."""
        try:
            return await self._known.of(tenant, hashes)
        except sa.exc.SQLAlchemyError as error:
            raise exceptions.NotNow("the hub's database does not answer", 5.0) from error

    async def status(self, tenant: Tenant, sha256: str) -> artifacts_pb2.ArtifactStatus:
        """How much of an artifact is there."""
        if artifact := await self.find(tenant, sha256):
            size = artifact.size_bytes
            return artifacts_pb2.ArtifactStatus(sha256=sha256, complete=True, received_bytes=size, artifact=artifact)
        received = self._depot.received_bytes(tenant, sha256)
        return artifacts_pb2.ArtifactStatus(sha256=sha256, received_bytes=received)

    async def upload(
        self, tenant: Tenant, header: artifacts_pb2.UploadHeader, chunks: AsyncIterator[bytes]
    ) -> artifacts_pb2.Artifact:
        """Store an artifact, or answer at once when it is there. Raises Refusal."""
        if artifact := await self.find(tenant, header.sha256):
            return artifact
        stored = await self._depot.receive(tenant, header.sha256, header.size_bytes, header.offset_bytes, chunks)
        return await self._note(tenant, stored)

    async def place(self, tenant: Tenant, ref: Ref, sha256: str, size_bytes: int, valid_s: float) -> str:
        """Where the video of an attempt can be put directly; empty where it cannot. Raises Refusal."""
        check_hash(sha256)
        return await self._depot.place(tenant, f"{ref.job_id}-{ref.attempt}", sha256, size_bytes, valid_s)

    async def adopt(self, tenant: Tenant, ref: Ref, sha256: str, size_bytes: int) -> artifacts_pb2.Artifact | None:
        """The video of an attempt that was put directly, checked and stored; None when it is not there or not it."""
        check_hash(sha256)
        stored = await self._depot.adopt(tenant, f"{ref.job_id}-{ref.attempt}", sha256, size_bytes)
        return await self._note(tenant, stored) if stored else None

    async def _note(self, tenant: Tenant, stored: Stored) -> artifacts_pb2.Artifact:
        def write() -> None:
            with self._database.begin() as connection:
                records.add_artifact(connection, tenant, stored, time.time())

        try:
            await asyncio.to_thread(write)
        except sa.exc.SQLAlchemyError as error:
            raise exceptions.NotNow("the hub's store cannot take files at the moment", 5.0) from error
        return artifacts_pb2.Artifact(sha256=stored.sha256, size_bytes=stored.size_bytes, media_type=stored.media_type)

    async def download(
        self, tenant: Tenant, sha256: str, wanted: artifacts_pb2.ByteRange
    ) -> tuple[artifacts_pb2.Artifact, AsyncIterator[bytes]]:
        """An artifact and the wanted bytes of it. Raises NotFound, InvalidRequest."""
        artifact = await self.find(tenant, sha256)
        if artifact is None:
            raise exceptions.NotFound(f"there is no artifact {sha256}")
        length = wanted.length_bytes if wanted.HasField("length_bytes") else artifact.size_bytes
        if not 0 <= wanted.offset_bytes <= artifact.size_bytes or length < 0:
            limit = f"asks for {length} bytes from {wanted.offset_bytes} on; the artifact has {artifact.size_bytes}"
            raise exceptions.InvalidRequest([Problem("range", limit)])
        end = min(wanted.offset_bytes + length, artifact.size_bytes)
        return artifact, self._depot.read(tenant, sha256, wanted.offset_bytes, end)


def _message(row: sa.Row[Any]) -> artifacts_pb2.Artifact:
    return artifacts_pb2.Artifact(sha256=row.sha256, size_bytes=row.size_bytes, media_type=row.media_type)


async def unpack(parts: AsyncIterator[Any]) -> tuple[Any, AsyncIterator[bytes]]:
    """Split an upload's stream into its header and its chunks. Raises InvalidRequest, OutOfSequence.

    A sender that is silent for IDLE_TIMEOUT_S, or dribbles, is cut off: others may be waiting to send the same bytes.
    """
    messages = aiter(parts)
    first = await _next(messages)
    if first is None or first.WhichOneof("part") != "header":
        raise exceptions.InvalidRequest([Problem("header", "is missing; the first message of an upload is its header")])

    async def chunks() -> AsyncIterator[bytes]:
        received, begun_s = 0, time.monotonic()
        while (message := await _next(messages)) is not None:
            if message.WhichOneof("part") != "chunk":
                raise exceptions.InvalidRequest([Problem("chunk", "is missing; after the header come chunks only")])
            received += len(message.chunk)
            took_s = time.monotonic() - begun_s
            if took_s > 2 * IDLE_TIMEOUT_S and received < took_s * SLOWEST_BYTES_PER_S:
                raise exceptions.OutOfSequence(
                    f"{received} bytes have arrived in {took_s:.0f} s, less than {SLOWEST_BYTES_PER_S:g} a second; "
                    "go on with a new call"
                )
            yield message.chunk

    return first.header, chunks()


async def _next(messages: AsyncIterator[Any]) -> Any | None:
    try:
        return await asyncio.wait_for(anext(messages, None), IDLE_TIMEOUT_S)
    except TimeoutError:
        raise exceptions.OutOfSequence(f"nothing has arrived for {IDLE_TIMEOUT_S:g} s; go on with a new call") from None
