"""Which series a batch of values belongs to."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from functools import cached_property

from sonic.v1 import metrics_pb2

MAX_SERIES = 20_000  # of one table
MAX_LABELS = 29  # beside the name; Mimir counts 30 with it
MAX_NAME_BYTES = 1024
MAX_VALUE_BYTES = 2048
MAX_HELP_BYTES = 1024
TENANT_LABEL = "tenant"
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class Layout:
    """Series of one source in the order of their values; each is a serialised sonic.v1.Series."""

    source: str  # who samples them: a node, or a hub
    series: tuple[bytes, ...]

    @cached_property
    def key(self) -> bytes:
        """16 bytes that stand for it."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.source.encode(), *self.series):
            digest.update(_LENGTH.pack(len(part)) + part)
        return digest.digest()

    def parsed(self) -> list[metrics_pb2.Series]:
        return [metrics_pb2.Series.FromString(one) for one in self.series]

    def to_bytes(self) -> bytes:
        return b"".join(_LENGTH.pack(len(part)) + part for part in (self.source.encode(), *self.series))

    @staticmethod
    def from_bytes(data: bytes) -> Layout:
        parts, at = [], 0
        while at < len(data):
            end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
            parts.append(data[at + _LENGTH.size : end])
            at = end
        return Layout(parts[0].decode(), tuple(parts[1:]))


def problem(series: metrics_pb2.Series, place: dict[str, str]) -> str:
    """Why a receiver would refuse the series, or why it is not the source's own; empty when it is sound."""
    names = [label.name for label in series.labels]
    if not _METRIC.fullmatch(series.name) or len(series.name) > MAX_NAME_BYTES:
        return "metric_name"
    if len(names) > MAX_LABELS or names != sorted(set(names)):
        return "labels"
    for label in series.labels:
        if not _LABEL.fullmatch(label.name) or len(label.name) > MAX_NAME_BYTES:
            return "label_name"
        if not 0 < len(label.value.encode()) <= MAX_VALUE_BYTES:
            return "label_value"
    own = {label.name: label.value for label in series.labels if label.name in place}
    return "" if own == place else "place"


def tenant_of(series: metrics_pb2.Series) -> str:
    """The tenant that the series names, empty when it is the operator's."""
    return next((label.value for label in series.labels if label.name == TENANT_LABEL), "")


def packed(series: metrics_pb2.Series) -> bytes:
    """The series as a layout holds it."""
    series.help = series.help[:MAX_HELP_BYTES]
    return series.SerializeToString(deterministic=True)
