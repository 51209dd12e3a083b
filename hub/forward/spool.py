"""One tenant's samples on disk, from a node's session until the receiver has answered for them.

The spool is a row of segments, read in the order in which they were written. Each begins with a cursor for every
source (the last batch of it that was taken, so that a repeated one is known even after a crash) and declares each
layout before the first batch that uses it, so it can be read, or given up, alone. A record is checked by its CRC: what
a crash left half written is cut off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hub.forward.layouts import Layout

SEGMENTS = 16  # how many a full spool has
REMEMBER_S = 7 * 86_400  # how long the cursor of a source that says nothing is kept
STALE = np.array([0x7FF0000000000002], "<u8").view("<f8")  # Prometheus' staleness marker
_HEAD = struct.Struct("<IIc")  # CRC of what follows it, length of the payload, kind
_CRC_BYTES = 4
_BATCH = struct.Struct("<16sQq")  # layout, sequence, Unix milliseconds; the values follow
_CURSOR = struct.Struct("<QqB")  # sequence, Unix milliseconds, length of the name that follows
_POSITION = struct.Struct("<QQ")
_LAYOUT, _SAMPLES, _CURSORS = b"L", b"S", b"C"
_READ_BYTES = 1 << 20
_log = logging.getLogger("hub.forward")


@dataclass(frozen=True)
class Cursor:
    """The last batch of a source that was taken."""

    sequence: int = 0
    at_unix_ms: int = 0


@dataclass(frozen=True)
class Batch:
    """Values of a layout at one moment."""

    layout: Layout
    at_unix_ms: int
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Position:
    """A place in the spool: the number of a segment, and bytes into it."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Window:
    """Batches that follow each other, at most one of each source, and where the next window begins."""

    batches: tuple[Batch, ...]
    end: Position
    samples: int


@dataclass
class _Segment:
    number: int
    path: Path
    begun_s: float
    size: int = 0
    samples: int = 0
    flushed: int = 0  # of them
    declared: set[bytes] = field(default_factory=set)
    broken: bool = False  # its file cannot be read to its end: nothing more is written to it


class Spool:
    """One writer and one reader, in one thread. What `put` has taken is on the disk after `flush` and `sync`."""

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.max_bytes, self._max_age_s = max_bytes, max_age_s
        self.cursors: dict[str, Cursor] = {}
        self._layouts: dict[bytes, Layout] = {}  # of the segment that is read
        self._read_segment = 0
        self._segments = deque(
            _Segment(int(path.stem), path, path.stat().st_mtime) for path in sorted(folder.glob("*.seg"))
        )
        self.position = self._stored_position()
        self._samples_before = 0  # of the segment that is read, before the position
        self._unreadable = 0  # samples that were given up for it
        self._pending: list[bytes] = []  # written by the next flush
        self._file: int | None = None
        self._written: list[int] = []  # earlier files that are to be synced and closed
        for segment in self._segments:
            self._scan(segment)

    @property
    def size_bytes(self) -> int:
        """What is on the disk and not delivered, about."""
        return sum(segment.size for segment in self._segments) - self.position.offset

    @property
    def empty(self) -> bool:
        """Whether everything was delivered."""
        return not self._segments or self.position == self._end()

    @property
    def waiting_samples(self) -> int:
        """How many are not delivered."""
        return sum(segment.samples for segment in self._segments) - self._samples_before

    def put(self, layout: Layout, cursor: Cursor, values: npt.NDArray[np.float64]) -> None:
        """Take a batch; `flush` writes it."""
        segment = self._writable()
        if layout.key not in segment.declared:
            segment.declared.add(layout.key)
            self._pending.append(_record(_LAYOUT, layout.key + layout.to_bytes()))
        payload = _BATCH.pack(layout.key, cursor.sequence, cursor.at_unix_ms) + values.astype("<f8").tobytes()
        self._pending.append(_record(_SAMPLES, payload))
        segment.samples += len(values)
        self.cursors[layout.source] = cursor

    def flush(self) -> None:
        """Write what was put. Raises OSError; what was put then stays to be written by the next."""
        if not self._pending:
            return
        segment, data = self._segments[-1], b"".join(self._pending)
        if self._file is None:
            self._file = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, segment.size)
        os.lseek(self._file, segment.size, os.SEEK_SET)
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        segment.size += len(data)
        segment.flushed = segment.samples
        self._pending.clear()

    def sync(self) -> None:
        """Wait until what was flushed is on the disk; for a thread of its own. Raises OSError."""
        done, self._written = self._written, []
        for handle in done:
            os.fdatasync(handle)
            os.close(handle)
        if (current := self._file) is not None:
            os.fdatasync(current)

    def give_up(self) -> dict[str, int]:
        """Remove the oldest segments while there is too much or it is too old; samples lost by reason."""
        lost = {"unreadable": self._unreadable} if self._unreadable else {}
        self._unreadable = 0
        while len(self._segments) > 1:
            reason = "spool_full" if self.size_bytes > self.max_bytes else ""
            if time.time() - self._segments[1].begun_s > self._max_age_s:
                reason = "too_old"
            if not reason:
                return lost
            gone = self._segments[0]
            lost[reason] = lost.get(reason, 0) + gone.samples - self._samples_before
            self._move(Position(self._segments[1].number, 0))
        return lost

    def window(self, max_samples: int) -> Window | None:
        """What comes next, or None when everything was delivered. Deliver it, then `commit` it."""
        while True:
            window = self._window(max_samples)
            if window or self.empty:
                return window
            segment = self._segments[0]
            if self.position.offset < segment.size:
                _log.error("samples cannot be read back, and are lost", extra={"file": str(segment.path)})
                self._unreadable += segment.flushed - self._samples_before
                self._samples_before = segment.flushed
                segment.broken = True
            if len(self._segments) < 2:
                self._move(self._end())
                return None
            self._move(Position(self._segments[1].number, 0))

    def _window(self, max_samples: int) -> Window | None:
        """Of the segment that is read."""
        batches: list[Batch] = []
        sources: set[str] = set()
        samples, end = 0, self.position
        for batch, after in self._read():
            if batch is not None:
                if batch.layout.source in sources or (batches and samples + len(batch.values) > max_samples):
                    break
                sources.add(batch.layout.source)
                batches.append(batch)
                samples += len(batch.values)
            end = after
        return Window(tuple(batches), end, samples) if end != self.position else None

    def commit(self, window: Window) -> None:
        """The receiver has answered for a window, which may have been given up meanwhile."""
        if window.end.segment >= self.position.segment:
            self._samples_before += window.samples
            self._move(window.end)

    def close(self) -> None:
        """Write and sync what was put. Raises OSError."""
        self.flush()
        self._retire()
        self.sync()

    def _retire(self) -> None:
        if self._file is not None:
            self._written.append(self._file)
            self._file = None

    def _move(self, to: Position) -> None:
        if to.segment != self.position.segment:
            self._samples_before = 0
        self.position = to
        try:
            while self._segments and self._segments[0].number < to.segment:
                self._segments.popleft().path.unlink(missing_ok=True)
            (self._folder / "position").write_bytes(_POSITION.pack(to.segment, to.offset))
        except OSError as error:  # the next life delivers again what this one has
            _log.error("what was delivered is not noted", extra={"error": str(error)})

    def _end(self) -> Position:
        return Position(self._segments[-1].number, self._segments[-1].size)

    def _writable(self) -> _Segment:
        """The segment that is written; a new one when there is none, or when it is full."""
        if self._segments and not self._is_full(self._segments[-1]):
            return self._segments[-1]
        if self._pending:
            return self._segments[-1]
        self._retire()
        number = self._segments[-1].number + 1 if self._segments else self.position.segment + 1
        segment = _Segment(number, self._folder / f"{number:012d}.seg", time.time())
        if not self._segments:
            self.position = Position(number, 0)
        self._segments.append(segment)
        self._pending.append(_record(_CURSORS, _pack_cursors(self.cursors)))
        return segment

    def _is_full(self, segment: _Segment) -> bool:
        is_old = time.time() - segment.begun_s > self._max_age_s / SEGMENTS
        return segment.size >= self.max_bytes // SEGMENTS or is_old or segment.broken

    def _stored_position(self) -> Position:
        """Where delivery has come to; the beginning of what there is when that is not known."""
        first = self._segments[0].number if self._segments else 0
        with contextlib.suppress(OSError, struct.error):
            stored = Position(*_POSITION.unpack((self._folder / "position").read_bytes()))
            if stored.segment >= first:
                return stored
        return Position(first, 0)

    def _scan(self, segment: _Segment) -> None:
        """Take over a segment of an earlier life."""
        for kind, payload, after in _records(segment.path, 0):
            if kind == _CURSORS:
                self.cursors.update(_unpack_cursors(payload))
            elif kind == _LAYOUT:
                segment.declared.add(payload[:16])
                self._layouts[payload[:16]] = Layout.from_bytes(payload[16:])
            else:
                key, sequence, at_unix_ms = _BATCH.unpack_from(payload)
                self.cursors[self._layouts[key].source] = Cursor(sequence, at_unix_ms)
                count = (len(payload) - _BATCH.size) // 8
                segment.samples += count
                if segment.number == self.position.segment and after <= self.position.offset:
                    self._samples_before += count
            segment.size = after
        segment.flushed = segment.samples

    def _read(self) -> Iterator[tuple[Batch | None, Position]]:
        """What follows in the segment that is read: a batch, or something else, and where it ends."""
        if not self._segments:
            return
        segment, begin = self._segments[0], self.position.offset
        if self._read_segment != segment.number:
            self._read_segment, self._layouts = segment.number, {}
            self._learn(segment, begin)
        for kind, payload, after in _records(segment.path, begin, segment.size):
            batch = None
            if kind == _LAYOUT:
                self._layouts.setdefault(payload[:16], Layout.from_bytes(payload[16:]))
            elif kind == _SAMPLES:
                key, _, at_unix_ms = _BATCH.unpack_from(payload)
                batch = Batch(self._layouts[key], at_unix_ms, np.frombuffer(payload, "<f8", offset=_BATCH.size))
            yield batch, Position(segment.number, after)

    def _learn(self, segment: _Segment, until: int) -> None:
        """The layouts that a segment declares before an offset."""
        for kind, payload, _ in _records(segment.path, 0, until):
            if kind == _LAYOUT:
                self._layouts[payload[:16]] = Layout.from_bytes(payload[16:])


def _record(kind: bytes, payload: bytes) -> bytes:
    head = _HEAD.pack(0, len(payload), kind)[_CRC_BYTES:]
    return zlib.crc32(payload, zlib.crc32(head)).to_bytes(_CRC_BYTES, "little") + head + payload


def _records(path: Path, begin: int, end: int | None = None) -> Iterator[tuple[bytes, bytes, int]]:
    """Kind, payload and end of each whole record from an offset on."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(begin)
        data, at, base = b"", 0, begin
        while end is None or base + at < end:
            if len(data) - at < _HEAD.size or len(data) - at < _HEAD.size + _HEAD.unpack_from(data, at)[1]:
                more = file.read(_READ_BYTES)
                if not more:
                    return
                data, at, base = data[at:] + more, 0, base + at
                continue
            crc, length, kind = _HEAD.unpack_from(data, at)
            after = at + _HEAD.size + length
            if zlib.crc32(memoryview(data)[at + _CRC_BYTES : after]) != crc:
                return
            payload = data[at + _HEAD.size : after]
            at = after
            yield kind, payload, base + at


def _pack_cursors(cursors: dict[str, Cursor]) -> bytes:
    oldest_ms = (time.time() - REMEMBER_S) * 1000
    return b"".join(
        _CURSOR.pack(cursor.sequence, cursor.at_unix_ms, len(source)) + source.encode()
        for source, cursor in cursors.items()
        if cursor.at_unix_ms > oldest_ms
    )


def _unpack_cursors(data: bytes) -> Iterator[tuple[str, Cursor]]:
    at = 0
    while at < len(data):
        sequence, at_unix_ms, length = _CURSOR.unpack_from(data, at)
        at += _CURSOR.size + length
        yield data[at - length : at].decode(), Cursor(sequence, at_unix_ms)
