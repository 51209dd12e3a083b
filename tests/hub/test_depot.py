"""The staging folder, while uploads come to their end in it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from obstore.store import MemoryStore

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
