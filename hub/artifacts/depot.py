"""Where artifacts are kept: an object store (a local folder by default), and a staging folder for what is arriving."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from hub import exceptions
from hub.artifacts import durations, media_types
from sonic.parameters import Problem

MAX_CHUNK_BYTES = 1 << 20
STAGING_AGE_S = 24 * 3600.0
_PLACED = "placed"  # under this the videos that agents have put there themselves, until they are checked
_STATES = "states"  # under this the states of renders, by tenant and job: nobody but a later attempt is to have them
_STATE_KEY = re.compile(r"states/[^/]+/[0-9a-f]{32}/[0-9a-f]{64}")
_PLACED_NAME = re.compile(r"[0-9a-f]{32}-\d+-[0-9a-f]{64}(-[0-9a-f]{32})?")
_log = logging.getLogger("hub.depot")
_HASH_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Stored:
    """A complete artifact."""

    sha256: str
    size_bytes: int
    media_type: str
    duration_s: float | None = None  # of a recording that tells it in its first bytes


def is_hash(said: str) -> bool:
    return len(said) == 64 and _HASH_DIGITS.issuperset(said)


def check_hash(sha256: str, field: str = "sha256") -> str:
    """The hash itself. Raises InvalidRequest unless it is 64 lower-case hexadecimal digits."""
    if not is_hash(sha256):
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
        key = _key(tenant, sha256)
        head = await self._receive(key, (tenant, sha256), sha256, size_bytes, offset_bytes, chunks)
        return Stored(sha256, size_bytes, media_types.media_type(head), durations.told(head, size_bytes))

    async def receive_state(
        self, tenant: str, job_id: str, sha256: str, size_bytes: int, offset_bytes: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """`receive` for the state of a job's render; an upload of the tenant's is left alone, whatever its hash."""
        key = state_key(tenant, job_id, sha256)
        await self._receive(key, (tenant, f"{job_id}-{sha256}"), sha256, size_bytes, offset_bytes, chunks)

    async def state_bytes(self, tenant: str, job_id: str, sha256: str) -> int:
        """How large a state is; 0 when it is not there. Raises NotNow."""
        with _not_now():
            try:
                return int((await obstore.head_async(self._objects, state_key(tenant, job_id, sha256)))["size"])
            except FileNotFoundError:
                return 0

    async def forget_state(self, tenant: str, job_id: str, sha256: str) -> None:
        """Remove a state; one that is not there, or cannot be removed, is left to the sweep."""
        with contextlib.suppress(BaseError, FileNotFoundError):
            await obstore.delete_async(self._objects, state_key(tenant, job_id, sha256))

    async def _receive(
        self,
        key: str,
        staged: tuple[str, str],  # tenant and name, of what arrives meanwhile
        sha256: str,
        size_bytes: int,
        offset_bytes: int,
        chunks: AsyncIterator[bytes],
    ) -> bytes:
        """How the bytes begin."""
        self._check_size(size_bytes)
        part = self._part(*staged)
        lock = self._locks.setdefault(part, asyncio.Lock())
        async with lock:
            with _not_now():
                await self._append(part, size_bytes, offset_bytes, chunks)
            digest, head = await asyncio.to_thread(_digest, part)
            if digest != sha256:
                part.unlink()
                raise exceptions.BytesDiffer(
                    f"the bytes received have the SHA-256 {digest}, not {sha256}; nothing was stored"
                )
            with _not_now():
                await obstore.put_async(self._objects, key, part)
                if isinstance(self._objects, LocalStore):
                    await asyncio.to_thread(_sync, Path(str(self._objects.prefix)), key)
            part.unlink()
        return head

    def link(self, tenant: str, sha256: str, valid_s: float) -> str:
        """Where an artifact can be fetched directly, by whoever has the link; empty where that is not possible."""
        if not isinstance(self._objects, S3Store):
            return ""
        try:
            return obstore.sign(self._objects, "GET", _key(tenant, sha256), timedelta(seconds=valid_s))
        except BaseError as error:
            _log.warning("no link could be signed", extra={"error": type(error).__name__})
            return ""

    async def place(self, tenant: str, attempt: str, sha256: str, size_bytes: int, valid_s: float) -> str:
        """Where the video of an attempt can be put directly; empty where that is not possible. Raises LimitReached."""
        self._check_size(size_bytes)
        if not isinstance(self._objects, S3Store):
            return ""
        with _not_now():
            key = _placed_key(tenant, attempt, sha256)
            return await obstore.sign_async(self._objects, "PUT", key, timedelta(seconds=valid_s))

    async def adopt(self, tenant: str, attempt: str, sha256: str, size_bytes: int) -> Stored | None:
        """Keep what was put where `place` said, if its bytes are those of the hash. Raises NotNow.

        Whoever has the link can go on writing there: what is read and kept is a copy that nobody else can reach.
        """
        if not isinstance(self._objects, S3Store):
            return None
        placed = _placed_key(tenant, attempt, sha256)
        copy = f"{placed}-{uuid.uuid4().hex}"
        with _not_now():
            try:
                if (await obstore.head_async(self._objects, placed))["size"] != size_bytes:
                    return None
                await obstore.copy_async(self._objects, placed, copy)
            except FileNotFoundError:
                return None
            digest, head = await self._read_through(copy)
            if digest == sha256:
                await obstore.copy_async(self._objects, copy, _key(tenant, sha256))
            for key in (copy, placed):
                with contextlib.suppress(BaseError, FileNotFoundError):  # what stays is swept
                    await obstore.delete_async(self._objects, key)
        return Stored(sha256, size_bytes, media_types.media_type(head)) if digest == sha256 else None

    def read(self, tenant: str, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`, in chunks."""
        return self._read(_key(tenant, sha256), start, end)

    def read_state(self, tenant: str, job_id: str, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        """`read` for the state of a job's render."""
        return self._read(state_key(tenant, job_id, sha256), start, end)

    async def _read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            stop = min(start + MAX_CHUNK_BYTES, end)
            chunk = await obstore.get_range_async(self._objects, key, start=start, end=stop)
            yield bytes(chunk)
            start = stop

    def sweep(self) -> int:
        """Remove uploads that nobody has gone on with for a day; returns how many."""
        removed = 0
        for part in self._staging.glob("*/*.part"):
            with contextlib.suppress(FileNotFoundError):  # it has just become whole
                if part.stat().st_mtime < time.time() - STAGING_AGE_S:
                    part.unlink()
                    removed += 1
        return removed + (self._sweep_placed() if isinstance(self._objects, S3Store) else 0)

    def forget_states(self, tenant: str, job_id: str) -> None:
        """Remove all states of a job; what cannot be removed is left to the sweep."""
        with contextlib.suppress(BaseError, FileNotFoundError):
            for page in obstore.list(self._objects, state_key(tenant, job_id, "")):
                for found in page:
                    obstore.delete(self._objects, found["path"])

    def sweep_states(self, known: Collection[str]) -> int:
        """Remove the states that are not among the `known` keys and have been there for a day; returns how many."""
        removed = 0
        with contextlib.suppress(BaseError, FileNotFoundError):  # an hour later it is tried again
            for page in obstore.list(self._objects, _STATES):
                for found in page:
                    age_s = time.time() - found["last_modified"].timestamp()
                    key = found["path"]
                    if age_s > STAGING_AGE_S and key not in known and _STATE_KEY.fullmatch(key):
                        obstore.delete(self._objects, key)
                        removed += 1
        return removed

    def _sweep_placed(self) -> int:
        removed = 0
        with contextlib.suppress(BaseError):  # an hour later it is tried again
            for page in obstore.list(self._objects, _PLACED):
                for found in page:
                    age_s = time.time() - found["last_modified"].timestamp()
                    if age_s > STAGING_AGE_S and _PLACED_NAME.fullmatch(found["path"].rpartition("/")[2]):
                        obstore.delete(self._objects, found["path"])
                        removed += 1
        return removed

    async def _read_through(self, key: str) -> tuple[str, bytes]:
        """The hash of an object, and how it begins; no more than a chunk of it is held."""
        digest, head = hashlib.sha256(), b""
        got = await obstore.get_async(self._objects, key)
        async for chunk in got.stream(min_chunk_size=MAX_CHUNK_BYTES):
            head = head or bytes(chunk)[: media_types.HEAD_BYTES]
            await asyncio.to_thread(digest.update, chunk)
        return digest.hexdigest(), head

    def _check_size(self, size_bytes: int) -> None:
        if not 0 < size_bytes <= self._max_bytes:
            limit = f"a file may have 1 to {self._max_bytes} bytes, this one is said to have {size_bytes}"
            raise exceptions.LimitReached("size_bytes", limit)

    def _part(self, tenant: str, name: str) -> Path:
        return self._staging / quote(tenant, safe="") / f"{name}.part"

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


def _key(tenant: str, sha256: str) -> str:
    return f"{quote(tenant, safe='')}/{sha256[:2]}/{sha256}"


def state_key(tenant: str, job_id: str, sha256: str) -> str:
    return f"{_STATES}/{quote(tenant, safe='')}/{job_id}/{sha256}"


def _placed_key(tenant: str, attempt: str, sha256: str) -> str:
    return f"{_PLACED}/{quote(tenant, safe='')}/{attempt}-{sha256}"


@contextlib.contextmanager
def _not_now() -> Iterator[None]:
    """A store of files that fails, or is full, is waited for; what it says may hold a link, and is not passed on."""
    try:
        yield
    except (BaseError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else ""
        _log.error("the store of files failed", extra={"error": why or type(error).__name__})
        raise exceptions.NotNow("the hub's store of files cannot be used at the moment", 5.0) from None


def _sync(root: Path, key: str) -> None:
    """Wait until a file and the folders that lead to it are on the disk: what is acknowledged outlives a power loss."""
    path = root / key
    for each in (path, *path.parents[: len(path.relative_to(root).parts)]):
        handle = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _digest(path: Path) -> tuple[str, bytes]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        return digest, file.read(media_types.HEAD_BYTES)
