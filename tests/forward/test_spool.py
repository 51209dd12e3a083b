"""What was put and flushed is read once, in order, whatever happened to the process; what is given up is counted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hub.forward.spool import Cursor, Spool

from .material import NOW_MS, layout

DAY_S = 86_400.0
SMALL = 16 * 400  # bytes: a segment holds a few batches
NODES = ("a", "b", "c")


def put(spool: Spool, source: str, sequence: int, count: int = 3) -> None:
    spool.put(layout(source, count), Cursor(sequence, NOW_MS + sequence), np.full(count, float(sequence)))


def everything(spool: Spool) -> list[tuple[str, int]]:
    """Delivers all that is there: source and sequence of each batch."""
    found = []
    while window := spool.window(100):
        sources = [one.layout.source for one in window.batches]
        assert len(set(sources)) == len(sources)
        for one in window.batches:
            assert one.layout == layout(one.layout.source, len(one.values))
            assert set(one.values) == {float(one.at_unix_ms - NOW_MS)}
            found.append((one.layout.source, one.at_unix_ms - NOW_MS))
        spool.commit(window)
    return found


class Lives(RuleBasedStateMachine):
    """A spool that is written, read, killed and opened again."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name) / "tenant"
        self.spool = Spool(self.folder, SMALL * 100, DAY_S)
        self.sequence = 0
        self.flushed: list[tuple[str, int]] = []
        self.pending: list[tuple[str, int]] = []
        self.delivered = 0

    def teardown(self) -> None:
        self.spool.close()
        self._temporary.cleanup()

    @rule(source=st.sampled_from(NODES), count=st.integers(1, 5))
    def put(self, source: str, count: int) -> None:
        self.sequence += 1
        put(self.spool, source, self.sequence, count)
        self.pending.append((source, self.sequence))

    @rule()
    def flush(self) -> None:
        self.spool.flush()
        self.spool.sync()
        self.flushed += self.pending
        self.pending = []

    @rule(max_samples=st.integers(1, 20))
    def deliver(self, max_samples: int) -> None:
        window = self.spool.window(max_samples)
        if window is None:
            assert self.delivered == len(self.flushed)
            return
        found = [(one.layout.source, one.at_unix_ms - NOW_MS) for one in window.batches]
        assert found == self.flushed[self.delivered : self.delivered + len(found)]
        self.spool.commit(window)
        self.delivered += len(found)

    @rule(torn=st.binary(max_size=30))
    def killed(self, torn: bytes) -> None:
        """kill -9: what was not flushed is gone, and a write may have been cut in the middle."""
        segments = sorted(self.folder.glob("*.seg"))
        if segments:
            with segments[-1].open("ab") as file:
                file.write(torn)
        self.pending = []
        self.spool = Spool(self.folder, SMALL * 100, DAY_S)
        last = {source: sequence for source, sequence in self.flushed}
        assert {source: cursor.sequence for source, cursor in self.spool.cursors.items()} == last

    @invariant()
    def tells_how_much_waits(self) -> None:
        assert self.spool.waiting_samples >= len(self.flushed) - self.delivered
        assert self.spool.empty <= (self.delivered == len(self.flushed))


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLives = Lives.TestCase


def test_segments_that_were_delivered_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SMALL, DAY_S)
    for sequence in range(200):
        put(spool, "a", sequence)
        spool.flush()
        assert everything(spool) == [("a", sequence)]
    assert len(list(tmp_path.glob("*.seg"))) <= 2
    assert spool.waiting_samples == 0


def test_a_full_spool_gives_up_the_oldest_and_counts_it(tmp_path: Path) -> None:
    spool, lost = Spool(tmp_path, SMALL, DAY_S), 0
    for sequence in range(200):
        put(spool, "a", sequence)
        spool.flush()
        lost += spool.give_up().get("spool_full", 0)
    assert spool.size_bytes <= SMALL
    left = everything(spool)
    assert left == [("a", sequence) for sequence in range(200 - len(left), 200)]
    assert lost == 3 * (200 - len(left))


def test_what_is_too_old_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, SMALL, DAY_S)
    now_s = 1_795_000_000.0
    monkeypatch.setattr("hub.forward.spool.time.time", lambda: now_s)
    for sequence in range(4):
        put(spool, "a", sequence)
        spool.flush()
        now_s += DAY_S / 2
    assert spool.give_up() == {"too_old": 3}
    assert everything(spool)[0] == ("a", 1)


def test_a_disk_that_is_full_keeps_what_was_put_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, SMALL, DAY_S)
    put(spool, "a", 1)
    real = os.write
    written = [5]

    def full(handle: int, data: bytes) -> int:
        if written:
            return real(handle, bytes(data[: written.pop()]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hub.forward.spool.os.write", full)
    with pytest.raises(OSError, match="No space left"):
        spool.flush()
    assert spool.window(10) is None
    monkeypatch.undo()
    spool.flush()
    assert everything(spool) == [("a", 1)]


def test_what_cannot_be_read_back_is_counted_and_what_comes_after_it_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SMALL, DAY_S)
    put(spool, "a", 1)
    spool.flush()
    put(spool, "a", 2)  # on its way to the same file
    for path in tmp_path.glob("*.seg"):
        path.unlink()
    assert everything(spool) == []
    assert spool.empty
    spool.flush()
    put(spool, "a", 3)
    spool.flush()
    assert everything(spool) == [("a", 3)]
    assert spool.give_up() == {"unreadable": 6}
    assert spool.waiting_samples == 0


def test_one_flipped_bit_costs_what_is_behind_it_in_the_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SMALL, DAY_S)
    for sequence in (1, 2, 3):
        put(spool, "a", sequence)
        spool.flush()
    (path,) = tmp_path.glob("*.seg")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert everything(spool) == [("a", 1), ("a", 2)]
    put(spool, "a", 4)
    spool.flush()
    assert everything(spool) == [("a", 4)]
    assert spool.give_up() == {"unreadable": 3}


def test_room_is_made_also_where_the_position_cannot_be_noted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SMALL, DAY_S)
    (tmp_path / "position").mkdir()  # stands for a full disk
    for sequence in range(200):
        put(spool, "a", sequence)
        spool.flush()
        spool.give_up()
    assert spool.size_bytes <= SMALL
    assert everything(spool)[-1] == ("a", 199)
