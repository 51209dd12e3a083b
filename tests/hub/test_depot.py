"""The staging folder, while uploads come to their end in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from hub.artifacts.depot import STAGING_AGE_S, Depot


def part(folder: Path, name: str, age_s: float = 0.0) -> Path:
    path = folder / "acme" / f"{name}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    about = path.stat()
    os.utime(path, (about.st_atime, about.st_mtime - age_s))
    return path


def test_uploads_that_nobody_goes_on_with_are_swept(tmp_path: Path) -> None:
    old, new = part(tmp_path, "old", STAGING_AGE_S + 60), part(tmp_path, "new")
    assert Depot(MemoryStore(), tmp_path, 100).sweep() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_an_upload_that_becomes_whole_meanwhile_does_not_end_the_sweep(tmp_path: Path) -> None:
    depot = Depot(MemoryStore(), tmp_path, 100)
    ended = 0
    with ThreadPoolExecutor(1) as other:
        for turn in range(20):
            arriving = [part(tmp_path, f"{turn}-{n}") for n in range(100)]
            removing = other.submit(lambda parts=arriving: [path.unlink() for path in parts])
            while not removing.done():
                assert depot.sweep() == 0
                ended += 1
            removing.result()
    assert ended


async def test_what_is_acknowledged_is_on_the_disk_with_the_folders_that_lead_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, staging, synced = tmp_path / "artifacts", tmp_path / "staging", set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.readlink(f"/proc/self/fd/{handle}")), real(handle)))
    depot = Depot(LocalStore(objects, mkdir=True), staging, 100)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"frames"

    sha256 = hashlib.sha256(b"frames").hexdigest()
    await depot.receive("a b", sha256, 6, 0, chunks())
    (file,) = (path for path in objects.rglob("*") if path.is_file())
    assert synced == {str(path) for path in (file, file.parent, file.parent.parent, objects)}
