"""Remote-write requests, 2.0 and 1.0, put together from templates.

A layout is encoded once, with gaps: the value and the timestamp of each sample and, in 2.0, each reference to a symbol
has a fixed width, so that a request is the templates of its batches with numpy writing into the gaps. References are
varints padded to two bytes, which protobuf allows; a timestamp takes six from 1971 to 2109.

Specifications: Prometheus Remote-Write 1.0, and 2.0-rc.4; https://prometheus.io/docs/specs/prw/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt

from hub.forward.layouts import Layout
from hub.forward.spool import Batch
from sonic.v1 import metrics_pb2

EARLIEST_MS, LATEST_MS = 1 << 35, (1 << 42) - 1  # what a timestamp of six bytes holds
MAX_SYMBOLS = 1 << 14  # what a reference of two bytes holds
MAX_BYTES = 8 << 20  # of a request before it is compressed
MAX_KEPT_SYMBOLS = 500_000
MAX_KEPT_TEMPLATES = 20_000
_SAMPLE_BYTES = 18  # tag, length, value and timestamp
_NO_SYMBOL = np.zeros(1, np.int32)  # the empty text is the first of every request
_TYPES = {  # of series -> of remote write 2.0
    metrics_pb2.METRIC_TYPE_COUNTER: 1,
    metrics_pb2.METRIC_TYPE_GAUGE: 2,
    metrics_pb2.METRIC_TYPE_HISTOGRAM: 3,
}
_Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Shape:
    """An encoded layout with gaps: the first byte of each value (8 bytes), timestamp (6) and reference (2)."""

    body: bytes
    values: _Places
    timestamps: _Places
    references: _Places


@dataclass(frozen=True)
class Template:
    """A shape, which many nodes have in common, and what is this layout's own."""

    shape: Shape
    symbols: npt.NDArray[np.int32]  # for each reference, which symbol of the encoder is meant
    distinct: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Request:
    """The body of one request, compressed, and what is in it."""

    body: bytes
    samples: int
    batches: tuple[Batch, ...]


class Encoder:
    """Makes requests of one version of remote write. Keeps what it has learned of layouts."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._forget()

    def requests(self, batches: Sequence[Batch], max_samples: int) -> Iterator[Request]:
        """Requests of at most so many samples; a batch that is larger is divided."""
        part: list[Batch] = []
        room = max_samples
        for batch in _cut(batches, max_samples):
            if len(batch.values) > room:
                yield from self._request(part)
                part, room = [], max_samples
            part.append(batch)
            room -= len(batch.values)
        if part:
            yield from self._request(part)

    def _request(self, batches: list[Batch]) -> Iterator[Request]:
        if len(self._symbols) > MAX_KEPT_SYMBOLS or len(self._templates) > MAX_KEPT_TEMPLATES:
            self._forget()
        templates = [self._template(batch.layout) for batch in batches]
        samples = sum(len(batch.values) for batch in batches)
        order = np.zeros(len(self._symbols), np.int32)  # symbol -> its number in this request
        used: list[npt.NDArray[np.int32]] = [_NO_SYMBOL]
        count = 1
        for template in templates:
            fresh = template.distinct[order[template.distinct] == 0]
            order[fresh] = np.arange(count, count + len(fresh), dtype=np.int32)
            used.append(fresh)
            count += len(fresh)
        symbols = np.concatenate(used).tolist() if self.version == 2 else []
        head = b"".join([self._symbols[number] for number in symbols])
        size = len(head) + sum(len(template.shape.body) for template in templates)
        if samples > 1 and (count > MAX_SYMBOLS or size > MAX_BYTES):
            yield from self.requests(batches, samples // 2)
            return
        parts = [_filled(template, batch, order) for template, batch in zip(templates, batches, strict=True)]
        yield Request(bytes(cramjam.snappy.compress_raw(b"".join([head, *parts]))), samples, tuple(batches))

    def _forget(self) -> None:
        self._templates: dict[bytes, Template] = {}
        self._shapes: dict[bytes, Shape] = {}
        self._symbols = [_field(4, b"")]
        self._numbers = {"": 0}

    def _template(self, layout: Layout) -> Template:
        if layout.key not in self._templates:
            self._templates[layout.key] = self._made(layout)
        return self._templates[layout.key]

    def _made(self, layout: Layout) -> Template:
        writer = _Writer()
        symbols: list[int] = []
        for series in layout.parsed():
            labels = sorted([("__name__", series.name), *((label.name, label.value) for label in series.labels)])
            if self.version == 2:
                texts = [text for label in labels for text in label]
                writer.series_2(len(texts), _TYPES.get(series.type, 0))
                symbols += [self._number(text) for text in (*texts, series.help)]
            else:
                writer.series_1(labels)
        shape = self._shapes.setdefault(bytes(writer.body), writer.shape())
        numbers = np.array(symbols, np.int32)
        distinct = np.array(sorted(set(symbols) - {0}), np.int32)
        return Template(shape, numbers, distinct)

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self._symbols)
            self._symbols.append(_field(4, text.encode()))
        return self._numbers[text]


class _Writer:
    """Encodes a layout, and notes where the gaps are."""

    def __init__(self) -> None:
        self.body = bytearray()
        self._values: list[int] = []
        self._timestamps: list[int] = []
        self._references: list[int] = []

    def series_1(self, labels: Iterable[tuple[str, str]]) -> None:
        """A TimeSeries of 1.0."""
        encoded = [_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in labels]
        self._open(1, sum(map(len, encoded)) + _SAMPLE_BYTES)
        self.body += b"".join(encoded)
        self._sample()

    def series_2(self, references: int, kind: int) -> None:
        """A TimeSeries of 2.0."""
        head = _tag(1) + _varint(2 * references)
        metadata = _tag(5) + _varint(5) + b"\x08" + bytes([kind]) + b"\x18"
        self._open(5, len(head) + 2 * references + _SAMPLE_BYTES + len(metadata) + 2)
        self.body += head
        self._refer(references)
        self._sample()
        self.body += metadata
        self._refer(1)

    def shape(self) -> Shape:
        values, timestamps, references = (
            np.array(places, np.intp) for places in (self._values, self._timestamps, self._references)
        )
        return Shape(bytes(self.body), values, timestamps, references)

    def _open(self, field: int, length: int) -> None:
        self.body += _tag(field) + _varint(length)

    def _refer(self, count: int) -> None:
        self._references += range(len(self.body), len(self.body) + 2 * count, 2)
        self.body += bytes(2 * count)

    def _sample(self) -> None:
        self.body += _tag(2) + _varint(_SAMPLE_BYTES - 2) + b"\x09"
        self._values.append(len(self.body))
        self.body += bytes(8) + b"\x10"
        self._timestamps.append(len(self.body))
        self.body += bytes(6)


def _filled(template: Template, batch: Batch, order: npt.NDArray[np.int32]) -> bytearray:
    shape, body = template.shape, bytearray(template.shape.body)
    _gaps(body, "<f8")[shape.values] = batch.values
    low, high = _timestamp(batch.at_unix_ms)
    _gaps(body, "<u4")[shape.timestamps] = low
    _gaps(body, "<u2")[shape.timestamps + 4] = high
    numbers = order[template.symbols]
    _gaps(body, "<u2")[shape.references] = (numbers & 0x7F) | 0x80 | (numbers >> 7 << 8)
    return body


def _gaps(body: bytearray, kind: str) -> npt.NDArray[Any]:
    """The body as numbers that begin at each of its bytes."""
    size = np.dtype(kind).itemsize
    return np.ndarray((len(body) - size + 1,), kind, body, strides=(1,))


def _timestamp(unix_ms: int) -> tuple[int, int]:
    """The varint of a timestamp, as its first four bytes and its last two."""
    groups = [unix_ms >> shift & 0x7F | 0x80 for shift in range(0, 35, 7)] + [unix_ms >> 35]
    encoded = bytes(groups)
    return int.from_bytes(encoded[:4], "little"), int.from_bytes(encoded[4:], "little")


def _cut(batches: Iterable[Batch], max_samples: int) -> Iterator[Batch]:
    for batch in batches:
        if len(batch.values) <= max_samples:
            yield batch
            continue
        for begin in range(0, len(batch.values), max_samples):
            part = slice(begin, begin + max_samples)
            layout = Layout(batch.layout.source, batch.layout.series[part])
            yield Batch(layout, batch.at_unix_ms, batch.values[part])


def _field(number: int, data: bytes) -> bytes:
    return _tag(number) + _varint(len(data)) + data


def _tag(number: int) -> bytes:
    return bytes([number << 3 | 2])


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
