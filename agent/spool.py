"""Samples that the hub has not acknowledged, on disk, bounded in size and age; they survive a kill -9 and power loss.

The spool is a row of segments. A segment is a file of records, each a SessionRequest behind its length and the moment
it was written; it begins with a series table of its own, so the oldest can be given up whole when room or time is out.
Sequence numbers grow by one, so a segment needs to remember only its first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from sonic import metrics
from sonic.metrics import Series
from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import metrics_pb2

SEGMENTS = 16  # how many a full spool has
_HEAD = struct.Struct("<IQq")  # length of the message, boot, milliseconds since that boot


class Unreadable(Exception):
    """A batch is not there any more, or its file is damaged."""


@dataclass
class _Segment:
    path: Path
    table_id: int
    first: int  # the sequence number of its first samples
    samples: array[int] = field(default_factory=lambda: array("I"))  # where each batch begins
    tables: array[int] = field(default_factory=lambda: array("I"))
    size: int = 0
    ends_unix_ms: int = 0


class Spool:
    """Batches of samples by sequence number. Not for several threads at once."""

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self.max_bytes, self._max_age_ms = max_bytes, int(max_age_s * 1000)
        self._boot = _boot()
        self._numbers: dict[Series, int] = {}  # of the newest segment
        self._acked = _read_number(folder / "acked")
        self._out_of_turn: set[int] = set()  # acknowledged while older ones are not
        self._segments = deque(filter(None, (_scan(path) for path in sorted(folder.glob("*.seg")))))
        newest = max((s.first + len(s.samples) for s in self._segments), default=0)
        self._next = max(newest, self._acked + 1) if self._acked or newest else time.time_ns() // 1_000_000
        self._table_id = max((segment.table_id for segment in self._segments), default=0)
        self._sealed = True  # a new life begins a new segment

    @property
    def first(self) -> int:
        """The oldest that is not acknowledged; equals `end` when there is none."""
        oldest = self._segments[0].first if self._segments else self._next
        return max(oldest, self._acked + 1)

    @property
    def end(self) -> int:
        """One beyond the newest."""
        return self._next

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def append(self, values: Mapping[Series, float], at_unix_ms: int) -> dict[str, int]:
        """Keep a batch; blocks until it is on the disk. Returns how many samples were given up for it, by reason.

        Raises OSError; the spool is then as it was.
        """
        if self._sealed or self._segments[-1].size >= self.max_bytes // SEGMENTS:
            self._begin()
        segment, known = self._segments[-1], len(self._numbers)
        fresh = [series for series in values if series not in self._numbers]
        numbers = self._numbers | {series: known + place for place, series in enumerate(fresh)}
        parts = []
        if fresh:
            table = metrics_pb2.SeriesTable(table_id=segment.table_id, first=known, series=map(metrics.message, fresh))
            parts.append(self._record(pb.SessionRequest(series_table=table)))
        order = sorted(numbers[series] for series in values)
        by_number = {numbers[series]: value for series, value in values.items()}
        samples = metrics_pb2.Samples(
            table_id=segment.table_id,
            sequence=self._next,
            at_unix_ms=at_unix_ms,
            series=order if len(order) < len(numbers) else (),
            values=[by_number[number] for number in order],
        )
        parts.append(self._record(pb.SessionRequest(samples=samples)))
        _extend(segment, b"".join(parts))
        if fresh:
            segment.tables.append(segment.size)
        segment.samples.append(segment.size + (len(parts[0]) if fresh else 0))
        segment.size += sum(map(len, parts))
        segment.ends_unix_ms = at_unix_ms
        self._numbers = numbers
        self._next += 1
        return self._give_up(at_unix_ms)

    def tables(self, sequence: int) -> tuple[int, list[pb.SessionRequest]]:
        """The table that a batch refers to, and all that declares it. Raises Unreadable."""
        segment = self._segment(sequence)
        before = segment.samples[sequence - segment.first]
        return segment.table_id, [self._read(segment, at)[0] for at in segment.tables if at < before]

    def batch(self, sequence: int) -> pb.SessionRequest:
        """A batch, with its age as it is now. Raises Unreadable."""
        segment = self._segment(sequence)
        message, boot, since_boot_ms = self._read(segment, segment.samples[sequence - segment.first])
        same = boot == self._boot
        age_ms = _since_boot_ms() - since_boot_ms if same else _now_ms() - message.samples.at_unix_ms
        message.samples.age_ms = max(age_ms, 0)
        return message

    def acknowledge(self, sequences: Iterator[int] | list[int]) -> None:
        """Forget these batches."""
        self._out_of_turn.update(number for number in sequences if number > self._acked)
        before = self._acked
        if self.first > self._acked + 1:  # what came before was given up
            self._acked = self.first - 1
        while self._acked + 1 in self._out_of_turn:
            self._acked += 1
            self._out_of_turn.discard(self._acked)
        if self._acked > before:
            (self._folder / "acked").write_bytes(struct.pack("<Q", self._acked))
        while self._segments and self._segments[0].first + len(self._segments[0].samples) <= self._acked + 1:
            if len(self._segments) == 1 and not self._sealed:
                break
            self._remove_oldest()

    def _begin(self) -> None:
        self._table_id += 1
        self._segments.append(_Segment(self._folder / f"{self._table_id:012d}.seg", self._table_id, self._next))
        self._numbers = {}
        self._sealed = False

    def _record(self, message: pb.SessionRequest) -> bytes:
        data = message.SerializeToString()
        return _HEAD.pack(len(data), self._boot, _since_boot_ms()) + data

    def _give_up(self, now_ms: int) -> dict[str, int]:
        lost: dict[str, int] = {}
        while len(self._segments) > 1:
            reason = "spool_full" if self.size_bytes > self.max_bytes else ""
            if now_ms - self._segments[0].ends_unix_ms > self._max_age_ms:
                reason = "too_old"
            if not reason:
                break
            lost[reason] = lost.get(reason, 0) + self._samples_in_oldest()
            self._remove_oldest()
        return lost

    def _samples_in_oldest(self) -> int:
        segment = self._segments[0]
        total = 0
        for place in range(max(self._acked + 1 - segment.first, 0), len(segment.samples)):
            with contextlib.suppress(Unreadable):
                total += len(self._read(segment, segment.samples[place])[0].samples.values)
        return total

    def _remove_oldest(self) -> None:
        self._segments.popleft().path.unlink(missing_ok=True)
        self._sealed = self._sealed or not self._segments

    def _segment(self, sequence: int) -> _Segment:
        for segment in self._segments:
            if segment.first <= sequence < segment.first + len(segment.samples):
                return segment
        raise Unreadable(f"no file has batch {sequence}")

    @staticmethod
    def _read(segment: _Segment, at: int) -> tuple[pb.SessionRequest, int, int]:
        try:
            with segment.path.open("rb") as file:
                file.seek(at)
                length, boot, since_boot_ms = _HEAD.unpack(file.read(_HEAD.size))
                return pb.SessionRequest.FromString(file.read(length)), boot, since_boot_ms
        except (OSError, struct.error, DecodeError) as error:
            raise Unreadable(f"{segment.path} cannot be read: {error}") from error


def _scan(path: Path) -> _Segment | None:
    """A segment as an earlier life left it, up to where it is damaged or was being written; None where that is all."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    segment = _Segment(path, int(path.stem), -1)
    while segment.size + _HEAD.size <= len(data):
        length = _HEAD.unpack_from(data, segment.size)[0]
        end = segment.size + _HEAD.size + length
        try:
            message = pb.SessionRequest.FromString(data[segment.size + _HEAD.size : end])
        except DecodeError:
            break
        if end > len(data):
            break
        if message.HasField("series_table"):
            segment.tables.append(segment.size)
        elif not message.HasField("samples"):
            break
        else:
            segment.first = message.samples.sequence if segment.first < 0 else segment.first
            segment.samples.append(segment.size)
            segment.ends_unix_ms = message.samples.at_unix_ms
        segment.size = end
    if segment.samples:
        return segment
    path.unlink()
    return None


def _extend(segment: _Segment, data: bytes) -> None:
    """Raises OSError; what was written in part is overwritten by the next."""
    with os.fdopen(os.open(segment.path, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as file:
        os.ftruncate(file.fileno(), segment.size)
        file.seek(segment.size)
        left = memoryview(data)
        while left:
            left = left[file.write(left) or 0 :]
        os.fdatasync(file.fileno())


def _read_number(path: Path) -> int:
    try:
        return int(struct.unpack("<Q", path.read_bytes())[0])
    except (OSError, struct.error):
        return 0


def _boot() -> int:
    """Tells this boot of the box from others: milliseconds since boot mean something within one only."""
    name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little")


def _since_boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
