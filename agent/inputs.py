"""Portraits and voices by their hash: fetched once for the jobs that run, checked while they are written.

They go with the last job that uses them, or `keep_s` later, or when there is no room. Files are hard-linked into the
scratch folders of the attempts that use them. So a file with a second link is in use, and one that is replaced or
removed here stays whole there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from weakref import WeakValueDictionary

import grpc.aio

from sonic.retries import Patience
from sonic.v1 import artifacts_pb2

PATIENCE_S = 60.0  # without a single byte
_HASH = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("agent.inputs")

Download = Callable[[int], AsyncIterator[bytes]]
"""Called as download(offset_bytes); yields the bytes from there on. Raises grpc.aio.AioRpcError."""


class InputCorrupt(Exception):
    """The bytes of an input are not those of its hash."""


class Inputs:
    """The files under one folder, bounded in their sum unless they are all in use."""

    def __init__(self, folder: Path, max_bytes: int, target: str, keep_s: float = math.inf) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._target = target  # whom the bytes come from, for messages
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def place(self, artifact: artifacts_pb2.Artifact, download: Download, at: Path) -> None:
        """Bring an input to `at`. Raises InputCorrupt, sonic.exceptions.HubError, OSError.

        A download that was cut goes on where it stopped, also in a later call. Wrong bytes are fetched once more.
        """
        if not _HASH.fullmatch(artifact.sha256):
            raise InputCorrupt(f"{artifact.sha256!r} is not a SHA-256; 64 lower-case hexadecimal digits are wanted")
        entry = self._folder / artifact.sha256
        lock = self._fetching.setdefault(artifact.sha256, asyncio.Lock())
        async with lock:
            if not await asyncio.to_thread(_is_intact, entry, artifact.sha256):
                await self._fetch(artifact, download, entry)
            os.utime(entry)
            os.link(entry, at)
        self._evict()

    def forget(self, sha256: str) -> None:
        """What was placed will not be wanted again."""
        (self._folder / sha256).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what no job uses any more, parts of downloads among it."""
        for path in self._folder.iterdir():
            about, lock = path.stat(), self._fetching.get(path.stem)
            if about.st_nlink == 1 and not (lock and lock.locked()) and time.time() - about.st_mtime >= self._keep_s:
                path.unlink(missing_ok=True)

    def recent(self, most: int) -> list[str]:
        """The hashes of what is cached, those used last first."""
        files = [path for path in self._folder.iterdir() if not path.suffix]
        return [path.name for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)[:most]]

    async def _fetch(self, artifact: artifacts_pb2.Artifact, download: Download, entry: Path) -> None:
        part = entry.with_suffix(".part")
        for _ in range(2):
            found = await self._complete(part, artifact.size_bytes, download)
            if found == artifact.sha256:
                part.rename(entry)
                return
            part.unlink()
            _log.warning("input does not match its hash", extra={"sha256": artifact.sha256, "found": found})
        raise InputCorrupt(f"the bytes received for {artifact.sha256} have the hash {found}, at the second try too")

    async def _complete(self, part: Path, size_bytes: int, download: Download) -> str:
        """Go on with a download until it ends; the hash of all its bytes."""
        patience = Patience(self._target, PATIENCE_S)
        while True:
            try:
                return await self._append(part, size_bytes, download, patience)
            except grpc.aio.AioRpcError as error:
                await patience.pause(error)

    async def _append(self, part: Path, size_bytes: int, download: Download, patience: Patience) -> str:
        digest = await asyncio.to_thread(_digest, part)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            received = file.tell()
            if received >= size_bytes > 0:
                return digest.hexdigest()
            async for chunk in download(received):
                digest.update(chunk)
                received += len(chunk)
                if received > size_bytes:
                    break
                file.write(chunk)
                patience.renew()
        return digest.hexdigest()

    def _evict(self) -> None:
        """Remove what was not used for longest, until the rest fits."""
        files = sorted(((path.stat(), path) for path in self._folder.iterdir()), key=lambda one: one[0].st_mtime_ns)
        excess = sum(stat.st_size for stat, _ in files) - self._max_bytes
        for stat, path in files:
            lock = self._fetching.get(path.stem)
            if excess <= 0:
                return
            if stat.st_nlink > 1 or (lock and lock.locked()):
                continue
            path.unlink(missing_ok=True)
            excess -= stat.st_size


def _is_intact(entry: Path, sha256: str) -> bool:
    """Cheap disks forget: a file is read again before it is used again."""
    return entry.exists() and _digest(entry).hexdigest() == sha256


def _digest(path: Path) -> hashlib._Hash:
    if not path.exists():
        return hashlib.sha256()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
