from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.inputs import InputCorrupt, Inputs
from sonic.v1 import artifacts_pb2


class Source:
    """Serves bytes in pieces and counts from where it was asked."""

    def __init__(self, data: bytes, chunk: int = 4) -> None:
        self.data, self.chunk = data, chunk
        self.asked: list[int] = []

    async def __call__(self, offset_bytes: int) -> AsyncIterator[bytes]:
        self.asked.append(offset_bytes)
        for start in range(offset_bytes, len(self.data), self.chunk):
            await asyncio.sleep(0)
            yield self.data[start : start + self.chunk]


def artifact(data: bytes) -> artifacts_pb2.Artifact:
    return artifacts_pb2.Artifact(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inputs").mkdir()
    return tmp_path / "inputs"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_what_was_used_longest_ago_is_evicted_and_what_is_in_use_never(folder: Path, tmp_path: Path):
    inputs = Inputs(folder, max_bytes=20, target="hub")
    data = {name: name.encode() * 10 for name in "abcd"}
    for place, name in enumerate("abc"):
        await inputs.place(artifact(data[name]), Source(data[name]), tmp_path / name)
        os.utime(folder / artifact(data[name]).sha256, (place, place))
    assert len(names(folder)) == 3, "all are in use, though they are too much together"
    (tmp_path / "a").unlink()
    (tmp_path / "c").unlink()
    await inputs.place(artifact(data["d"]), Source(data["d"]), tmp_path / "d")
    assert names(folder) == {artifact(data[name]).sha256 for name in "bd"}
    assert (tmp_path / "b").read_bytes() == data["b"]


async def test_use_keeps_a_file(folder: Path, tmp_path: Path):
    inputs = Inputs(folder, max_bytes=20, target="hub")
    for name in "abac":
        source = Source(name.encode() * 10)
        await inputs.place(artifact(source.data), source, tmp_path / name)
        (tmp_path / name).unlink()
    assert names(folder) == {artifact(name.encode() * 10).sha256 for name in "ac"}


async def test_two_attempts_that_want_the_same_file_fetch_it_once(folder: Path, tmp_path: Path):
    inputs, source = Inputs(folder, 1000, "hub"), Source(b"portrait" * 10)
    wanted = artifact(source.data)
    await asyncio.gather(*(inputs.place(wanted, source, tmp_path / str(slot)) for slot in range(3)))
    assert source.asked == [0]
    assert [(tmp_path / str(slot)).read_bytes() for slot in range(3)] == [source.data] * 3


async def test_a_file_that_has_rotted_on_disk_is_fetched_again(folder: Path, tmp_path: Path):
    inputs, source = Inputs(folder, 1000, "hub"), Source(b"portrait")
    wanted = artifact(source.data)
    await inputs.place(wanted, source, tmp_path / "first")
    (tmp_path / "first").unlink()
    (folder / wanted.sha256).write_bytes(b"portrayt")
    await inputs.place(wanted, source, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == source.data


async def test_a_rotten_beginning_costs_one_more_download(folder: Path, tmp_path: Path):
    source = Source(b"portrait")
    wanted = artifact(source.data)
    (folder / f"{wanted.sha256}.part").write_bytes(b"xx")
    await Inputs(folder, 1000, "hub").place(wanted, source, tmp_path / "at")
    assert source.asked == [2, 0]
    assert (tmp_path / "at").read_bytes() == source.data


@pytest.mark.parametrize("served", [b"portrayt", b"portrait and much more", b"port", b""])
async def test_wrong_bytes_are_fetched_twice_and_leave_nothing(folder: Path, tmp_path: Path, served: bytes):
    source = Source(served)
    with pytest.raises(InputCorrupt, match="at the second try too"):
        await Inputs(folder, 1000, "hub").place(artifact(b"portrait"), source, tmp_path / "at")
    assert source.asked == [0, 0]
    assert names(folder) == set()
    assert not (tmp_path / "at").exists()


async def test_a_hash_that_is_a_path_is_refused(folder: Path, tmp_path: Path):
    evil = artifacts_pb2.Artifact(sha256="../../etc/passwd", size_bytes=1)
    with pytest.raises(InputCorrupt, match="not a SHA-256"):
        await Inputs(folder, 1000, "hub").place(evil, Source(b"x"), tmp_path / "at")
