"""A model in the hub's store of files: put there once by an operator, fetched from there by every box.

A large file goes in parts, since the hub bounds what one artifact may have. What holds it together is an artifact too:
the model's manifest with the hashes of the parts. Its SHA-256 is all that a box has to be told.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sonic import transfers
from sonic.config import ClientConfig
from sonic.connection import Connection
from sonic.credentials import Credentials
from sonic.exceptions import SonicError
from sonic_runtime.models import folder
from sonic_runtime.models.folder import FetchFailed, File, Manifest

PART_BYTES = 256 << 20  # half of what a hub takes when it is not told otherwise


@dataclass(frozen=True)
class _Index:
    manifest: Manifest
    part_bytes: int
    parts: dict[str, list[str]]  # the SHA-256 of each part, by the file's path


async def push(settings: ClientConfig, model: Path, say: Callable[[str], None], part_bytes: int = PART_BYTES) -> str:
    """Put a whole model into the store and say the SHA-256 under which it is found. Raises HubError, FileTrouble.

    What the hub has already is not sent again, so a push that was cut is simply repeated.
    """
    manifest = folder.read_manifest(model)
    parts: dict[str, list[str]] = {}
    async with _connected(settings) as hub:
        for file in manifest.files:
            say(f"{file.path} ({file.bytes / 1e6:,.1f} MB)")
            parts[file.path] = await _push(hub, model / file.path, file, part_bytes)
        text = json.dumps({"manifest": asdict(manifest), "part_bytes": part_bytes, "parts": parts}).encode()
        with tempfile.NamedTemporaryFile() as index:
            index.write(text)
            index.flush()
            sha256 = hashlib.sha256(text).hexdigest()
            await transfers.upload(hub, Path(index.name), sha256)
    return sha256


async def _push(hub: Connection, path: Path, file: File, part_bytes: int) -> list[str]:
    if file.bytes <= part_bytes:
        await transfers.upload(hub, path, file.sha256)
        return [file.sha256]
    hashes = []
    for start in range(0, file.bytes, part_bytes):
        span = range(start, min(start + part_bytes, file.bytes))
        hashes.append(await asyncio.to_thread(_sha256_of, path, span))
        await transfers.upload(hub, path, hashes[-1], span)
    return hashes


class Shelf:
    """A model as it was pushed; what `sonic_runtime.models.fetch` takes as its store."""

    def __init__(self, settings: ClientConfig, sha256: str) -> None:
        self._settings = settings
        self._sha256 = sha256
        self._index: _Index | None = None

    def manifest(self) -> Manifest:
        """What it holds. Raises FetchFailed."""
        return self._read().manifest

    def get(self, file: File, target: Path) -> None:
        """Bring a file to `target`, part by part; those that are there already stay. Raises FetchFailed, OSError."""
        index = self._read()
        part = target.with_name(f".{target.name}.arriving")
        whole = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
        with whole.open("ab") as out:
            done = out.tell() // index.part_bytes
            out.truncate(done * index.part_bytes)
            for sha256 in index.parts[file.path][done:]:
                self._download(sha256, part)
                with part.open("rb") as read:
                    shutil.copyfileobj(read, out)
                part.unlink()
        whole.replace(target)

    def _read(self) -> _Index:
        if self._index is None:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "index.json"
                self._download(self._sha256, path)
                self._index = _parsed(path.read_bytes(), self._sha256)
        return self._index

    def _download(self, sha256: str, target: Path) -> None:
        async def get() -> None:
            async with _connected(self._settings) as hub:
                await transfers.download(hub, sha256, target)

        try:
            asyncio.run(get())
        except SonicError as error:
            raise FetchFailed(f"{sha256} could not be had from the hub's store: {error}") from error


def _parsed(text: bytes, sha256: str) -> _Index:
    try:
        content = json.loads(text)
        manifest = folder.parse_manifest(json.dumps(content["manifest"]).encode(), Path())
        part_bytes, parts = content["part_bytes"], dict(content["parts"])
        if type(part_bytes) is not int or part_bytes < 1:
            raise ValueError("it does not say how large parts are")
        for file in manifest.files:
            hashes = parts[file.path]
            if len(hashes) != max(-(-file.bytes // part_bytes), 1) or not all(isinstance(each, str) for each in hashes):
                raise ValueError(f"the parts that it names of {file.path} are not those of {file.bytes} bytes")
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise FetchFailed(
            f"artifact {sha256} of the hub is no model that `sonic models push` put there: {error}"
        ) from error
    return _Index(manifest, part_bytes, parts)


@asynccontextmanager
async def _connected(settings: ClientConfig) -> AsyncIterator[Connection]:
    hub = Connection(
        settings.hub,
        settings.tenant,
        settings.patience_s,
        insecure=settings.insecure,
        ca_file=settings.ca_file,
        credentials=Credentials(settings.api_key_file, settings.token_file),
    )
    try:
        yield hub
    finally:
        await hub.close()


def _sha256_of(path: Path, span: range) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(span.start)
        while chunk := file.read(min(transfers.CHUNK_BYTES, span.stop - file.tell())):
            digest.update(chunk)
    return digest.hexdigest()
