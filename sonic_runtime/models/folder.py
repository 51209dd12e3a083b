"""The model folder: which models are in it, whether they are whole, and how one gets its place there.

Every version of a model has a folder of its own, NAME/VERSION, with its files and a manifest of their sizes and hashes.
It appears whole or not at all; what a fetch has brought so far lies beside it, hidden, until that is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import platformdirs

MANIFEST = "manifest.json"
FOUND_WHOLE = ".found-whole.json"  # beside the manifest: files that were read through, and how they were then
QUICK_BYTES = 64 << 20  # a larger file is only measured when nobody asked for more
_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("sonic_runtime.models")

Read = Literal["all", "changed", "small"]
"""Which files of a model are read through when it is checked: all; those that were not found whole as they are now; or
small ones alone, up to QUICK_BYTES. All are measured."""


class FetchFailed(Exception):
    """A model, or a file of it, could not be had."""


@dataclass(frozen=True)
class File:
    """A file of a model."""

    path: str  # in the model's folder, with slashes
    sha256: str
    bytes: int
    source: str = ""  # where it was published, as far as that is not said by the model


@dataclass(frozen=True)
class Manifest:
    """What a model's folder holds. Its files are what every later check and every other machine is held to."""

    name: str
    version: str
    licence: str
    files: tuple[File, ...]


def root() -> Path:
    """The folder of all models: SONIC_MODELS, or one among the user's data."""
    configured = os.environ.get("SONIC_MODELS")
    return Path(configured) if configured else Path(platformdirs.user_data_dir("sonic-fleet")) / "models"


def place(name: str, version: str) -> Path:
    """Where a version of a model is, or would be."""
    return root() / name / version


def versions(name: str) -> list[str]:
    """The versions of a model that are there, whole or not."""
    return sorted(found.parent.name for found in (root() / name).glob(f"[!.]*/{MANIFEST}"))


def names() -> list[str]:
    """The models of which a version is there."""
    return sorted({found.parent.parent.name for found in root().glob(f"[!.]*/[!.]*/{MANIFEST}")})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model's folder. Raises OSError, ValueError."""
    return parse_manifest((folder / MANIFEST).read_bytes(), folder)


def parse_manifest(text: bytes, folder: Path) -> Manifest:
    """A manifest, of which nothing is believed that leads out of a folder. Raises ValueError.

    One that was written before sizes were kept is a table of hashes; the rest of it is taken from `folder`.
    """
    try:
        content = json.loads(text)
        if isinstance(content["files"], dict):
            listed = [
                {"path": path, "sha256": sha256, "bytes": _size(folder / path)}
                for path, sha256 in content["files"].items()
            ]
            content = {"name": folder.parent.name, "version": folder.name, "licence": "", "files": listed}
        files = tuple(File(**file) for file in content["files"])
        manifest = Manifest(content["name"], content["version"], content["licence"], files)
        for part in (manifest.name, manifest.version, *(file.path for file in files)):
            if PurePosixPath(part).is_absolute() or not {"", ".", ".."}.isdisjoint(part.split("/")):
                raise ValueError(f"it names {part!r}, which leads out of the folder")
            if part == MANIFEST or not part.isprintable():
                raise ValueError(f"it names {part!r}, which no file of a model may be called")
        if any(type(file.bytes) is not int or not _SHA256.fullmatch(file.sha256) for file in files):
            raise ValueError("it has a file without a size or a SHA-256")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is none: {error}") from error
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Say what a folder holds. Raises OSError."""
    with (folder / MANIFEST).open("w") as file:
        file.write(json.dumps(asdict(manifest), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def how_to_repair(folder: Path) -> str:
    """The command that brings the model of a folder again."""
    return f"run `sonic models fetch {folder.name}`"


def problem(folder: Path, read: Read = "all") -> str:
    """What is wrong with a model's folder, empty when nothing is. To read all of a large model takes a minute."""
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return f"{MANIFEST} is missing" if folder.exists() else "is not here"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read: {error}; {how_to_repair(folder)}"
    known = _found_whole(folder)
    found: dict[str, Any] = {}
    for file in manifest.files:
        path = folder / file.path
        try:
            told = path.stat()
            found[file.path] = [file.sha256, told.st_size, told.st_mtime_ns, told.st_ino]
            unread = read == "small" and file.bytes > QUICK_BYTES
            unread |= read == "changed" and known.get(file.path) == found[file.path]
            same = told.st_size == file.bytes and (unread or sha256_of(path) == file.sha256)
        except FileNotFoundError:
            return f"{file.path} is missing; {how_to_repair(folder)}"
        except OSError as error:
            return f"{file.path} cannot be read: {error.strerror}"
        if not same:
            size = f" ({told.st_size} bytes instead of {file.bytes})" if told.st_size != file.bytes else ""
            return f"{file.path} has been changed{size}; {how_to_repair(folder)}"
    if read != "small" and found != known:
        _keep_found_whole(folder, found)
    return ""


def _found_whole(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / FOUND_WHOLE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep_found_whole(folder: Path, found: dict[str, Any]) -> None:
    part = folder / f"{FOUND_WHOLE}.{os.getpid()}"
    try:
        part.write_text(json.dumps(found))
        part.chmod(0o644)  # whoever checks it need not be who renders with it
        part.replace(folder / FOUND_WHOLE)
    except OSError as error:
        _log.info("that files were found whole is not kept", extra={"folder": str(folder), "detail": error.strerror})


@contextlib.contextmanager
def arriving(name: str, version: str) -> Iterator[Path]:
    """A hidden folder for a version that is being fetched, for one process alone.

    It stays when the fetch does not get to the end, so that the next one goes on from there. Raises FetchFailed.
    """
    folder = root() / name / f".{version}.arriving"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            for old in folder.parent.glob(f".{version}.replaced-*"):  # of a process that was killed
                _remove(old)
            with _leaving_nothing_empty(folder):
                yield folder
    except OSError as error:
        raise unwritable(folder, error) from error


@contextlib.contextmanager
def _leaving_nothing_empty(folder: Path) -> Iterator[None]:
    """What failed before anything had come leaves no folder. For who holds it alone: another may be filling it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for empty in (folder, folder.parent, root()):
                empty.rmdir()
        raise


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not folder.exists() or os.fstat(held).st_ino != folder.stat().st_ino:  # settled in the meantime
            raise BlockingIOError
        yield
    except BlockingIOError:
        raise FetchFailed(f"{folder} is being filled by another process; wait for it") from None
    finally:
        os.close(held)


def settle(arrived: Path, manifest: Manifest) -> None:
    """Give a folder that is complete its place. Raises OSError."""
    listed = {file.path for file in manifest.files}
    for path in sorted(arrived.rglob("*"), reverse=True):  # what an earlier try left and this one did not want
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif path.relative_to(arrived).as_posix() not in listed:
            path.unlink()
        else:
            path.chmod(0o644)
    write_manifest(arrived, manifest)
    target = place(manifest.name, manifest.version)
    replaced = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    if os.path.lexists(target):
        target.rename(replaced)
    arrived.rename(target)
    _remove(replaced)


def _remove(path: Path) -> None:
    """A version's folder, or the link that stood for it; another process may be at it, too."""
    path.unlink(missing_ok=True) if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)


def copy(source: Path, target: Path) -> str:
    """Copy a file and say its SHA-256. Raises FetchFailed when it cannot be read, OSError when it cannot be written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        opened = source.open("rb")
    except OSError as error:
        raise FetchFailed(f"{source} cannot be read: {error.strerror}") from error
    with opened as read, target.open("wb") as written:
        while chunk := read.read(_CHUNK_BYTES):
            digest.update(chunk)
            written.write(chunk)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """64 lower-case hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(folder: Path, sources: Iterable[tuple[str, str]] = ()) -> tuple[File, ...]:
    """Every file under a folder as a manifest has it, but for what an earlier try left of its own. Raises OSError."""
    by_path = dict(sources)
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST and path.name[0] != "."
    )
    names = [path.relative_to(folder).as_posix() for path in paths]
    return tuple(
        File(name, sha256_of(path), path.stat().st_size, by_path.get(name, ""))
        for name, path in zip(names, paths, strict=True)
    )


def unwritable(path: Path, error: OSError) -> FetchFailed:
    """What to say when the folder takes no more."""
    advice = "set SONIC_MODELS to a folder with room, and that you may write to"
    return FetchFailed(f"{path} could not be written: {error.strerror or error}; {advice}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
