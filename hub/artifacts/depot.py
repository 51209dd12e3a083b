"""Where artifacts are kept: an object store (a local folder by default), and a staging folder for what is arriving."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

import obstore
from obstore.store import ObjectStore

from hub import exceptions
from hub.artifacts import durations, media_types
from sonic.parameters import Problem

MAX_CHUNK_BYTES = 1 << 20
STAGING_AGE_S = 24 * 3600.0
_HASH_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Stored:
    """A complete artifact."""

    sha256: str
    size_bytes: int
    media_type: str
    duration_s: float | None = None  # of a recording that tells it in its first bytes


def check_hash(sha256: str, field: str = "sha256") -> str:
    """The hash itself. Raises InvalidRequest unless it is 64 lower-case hexadecimal digits."""
    if len(sha256) != 64 or not _HASH_DIGITS.issuperset(sha256):
        raise exceptions.InvalidRequest(
            [Problem(field, f"is {sha256[:80]!r}; 64 lower-case hexadecimal digits are wanted")]
        )
    return sha256


class Depot:
    """Bytes by tenant and hash. Which of them a tenant may use is the store's to know."""

    def __init__(self, objects: ObjectStore, staging: Path, max_bytes: int) -> None:
        self._objects = objects
        self._staging = staging
        self._max_bytes = max_bytes
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    def received_bytes(self, tenant: str, sha256: str) -> int:
        """How much of an unfinished upload has arrived."""
        part = self._part(tenant, sha256)
        return part.stat().st_size if part.exists() else 0

    async def receive(
        self, tenant: str, sha256: str, size_bytes: int, offset_bytes: int, chunks: AsyncIterator[bytes]
    ) -> Stored:
        """Take the bytes from `offset_bytes` on, check the whole against its hash, and keep it.

        What has arrived is kept when the sender is cut off.
        Raises InvalidRequest, OutOfSequence, BytesDiffer, LimitReached, NotNow.
        """
        if not 0 < size_bytes <= self._max_bytes:
            limit = f"a file may have 1 to {self._max_bytes} bytes, this one is said to have {size_bytes}"
            raise exceptions.LimitReached("size_bytes", limit)
        part = self._part(tenant, sha256)
        lock = self._locks.setdefault(part, asyncio.Lock())
        async with lock:
            try:
                await self._append(part, size_bytes, offset_bytes, chunks)
            except OSError as error:
                raise _no_room(str(error)) from error
            digest, head = await asyncio.to_thread(_digest, part)
            if digest != sha256:
                part.unlink()
                raise exceptions.BytesDiffer(
                    f"the bytes received have the SHA-256 {digest}, not {sha256}; nothing was stored"
                )
            try:
                await obstore.put_async(self._objects, _key(tenant, sha256), part)
            except obstore.exceptions.BaseError as error:
                raise _no_room(str(error).splitlines()[0]) from error
            part.unlink()
        return Stored(sha256, size_bytes, media_types.media_type(head), durations.told(head, size_bytes))

    async def read(self, tenant: str, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`, in chunks."""
        while start < end:
            stop = min(start + MAX_CHUNK_BYTES, end)
            chunk = await obstore.get_range_async(self._objects, _key(tenant, sha256), start=start, end=stop)
            yield bytes(chunk)
            start = stop

    def sweep(self) -> int:
        """Remove uploads that nobody has gone on with for a day; returns how many."""
        old = [part for part in self._staging.glob("*/*.part") if part.stat().st_mtime < time.time() - STAGING_AGE_S]
        for part in old:
            part.unlink(missing_ok=True)
        return len(old)

    def _part(self, tenant: str, sha256: str) -> Path:
        return self._staging / quote(tenant, safe="") / f"{sha256}.part"

    async def _append(self, part: Path, size_bytes: int, offset_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            held = file.tell()
            if not 0 <= offset_bytes <= held:
                raise exceptions.OutOfSequence(
                    f"offset_bytes is {offset_bytes}, but {held} bytes have arrived; go on from there"
                )
            file.truncate(offset_bytes)
            file.seek(offset_bytes)
            async for chunk in chunks:
                if file.tell() + len(chunk) > size_bytes:
                    raise exceptions.InvalidRequest([Problem("chunk", f"runs past the size_bytes of {size_bytes}")])
                await asyncio.to_thread(file.write, chunk)
            if file.tell() < size_bytes:
                raise exceptions.OutOfSequence(
                    f"the upload ended at {file.tell()} of {size_bytes} bytes; go on from there"
                )


def _no_room(why: str) -> exceptions.NotNow:
    return exceptions.NotNow(f"the hub cannot keep files at the moment: {why}", retry_after_s=5.0)


def _key(tenant: str, sha256: str) -> str:
    return f"{quote(tenant, safe='')}/{sha256[:2]}/{sha256}"


def _digest(path: Path) -> tuple[str, bytes]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return digest, file.read(media_types.HEAD_BYTES)
