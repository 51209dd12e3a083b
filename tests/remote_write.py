"""Remote write as a receiver reads it, decoded by protobuf from descriptors that are written down here.

Specifications: https://prometheus.io/docs/specs/prw/remote_write_spec/ and …/remote_write_spec_2_0/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KIND = descriptor_pb2.FieldDescriptorProto
_FIELDS: dict[str, list[tuple[str, int, Any, bool, str]]] = {  # name, number, type, repeated, message
    "Sample": [("value", 1, _KIND.TYPE_DOUBLE, False, ""), ("timestamp", 2, _KIND.TYPE_INT64, False, "")],
    "Label": [("name", 1, _KIND.TYPE_STRING, False, ""), ("value", 2, _KIND.TYPE_STRING, False, "")],
    "Series1": [("labels", 1, _KIND.TYPE_MESSAGE, True, "Label"), ("samples", 2, _KIND.TYPE_MESSAGE, True, "Sample")],
    "Request1": [("timeseries", 1, _KIND.TYPE_MESSAGE, True, "Series1")],
    "Metadata": [("type", 1, _KIND.TYPE_INT32, False, ""), ("help_ref", 3, _KIND.TYPE_UINT32, False, "")],
    "Series2": [
        ("labels_refs", 1, _KIND.TYPE_UINT32, True, ""),
        ("samples", 2, _KIND.TYPE_MESSAGE, True, "Sample"),
        ("metadata", 5, _KIND.TYPE_MESSAGE, False, "Metadata"),
    ],
    "Request2": [("symbols", 4, _KIND.TYPE_STRING, True, ""), ("timeseries", 5, _KIND.TYPE_MESSAGE, True, "Series2")],
}


class Sample(NamedTuple):
    """One sample; labels are sorted by name and hold __name__."""

    labels: tuple[tuple[str, str], ...]
    timestamp_ms: int
    value: float


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="prw.proto", package="prw", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, of in fields:
            label = _KIND.LABEL_REPEATED if repeated else _KIND.LABEL_OPTIONAL
            more = {"type_name": f".prw.{of}"} if of else {}
            message.field.add(name=field, number=number, type=kind, label=label, **more)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"prw.{name}")) for name in _FIELDS}


_CLASSES = _classes()


def decode(body: bytes, content_type: str) -> Iterator[Sample]:
    """The samples of a request, in their order."""
    raw = bytes(cramjam.snappy.decompress_raw(body))
    if "v2.Request" not in content_type:
        for series in _CLASSES["Request1"].FromString(raw).timeseries:
            labels = tuple((label.name, label.value) for label in series.labels)
            yield from (Sample(labels, sample.timestamp, sample.value) for sample in series.samples)
        return
    request = _CLASSES["Request2"].FromString(raw)
    symbols = list(request.symbols)
    assert symbols[0] == ""
    for series in request.timeseries:
        names = [symbols[number] for number in series.labels_refs]
        labels = tuple(zip(names[::2], names[1::2], strict=True))
        yield from (Sample(labels, sample.timestamp, sample.value) for sample in series.samples)
