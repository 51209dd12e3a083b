"""New inputs out of good ones: bytes changed, cut, doubled and spliced, and messages drawn from their descriptors."""

from __future__ import annotations

import math
import struct
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MOST_BYTES = 1 << 16
_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
_WORDS = [
    *(
        b"\0",
        b"../../etc/passwd",
        b"/etc/passwd",
        b"%s%n",
        b"\r\n\r\n",
        b"NaN",
        b"-inf",
        b"1e999",
        b"9" * 400,
        b"0x" + b"f" * 5000,
    ),
    *("ä€😀".encode(), b"\xff\xfe", b'"' * 50, b"[" * 2000, b"{" * 2000, b'{"a":' * 900, b"=", b"\n[", b"\n"),
]
_TEXTS = ["", "x", "../..", "\0", "ä" * 60, "a/b", "x" * 2000, "2026-11-25T10:00:00Z", "0" * 64, "f" * 64, "n1", "acme"]
_FLOATS = [0.0, -1.0, 1.0, 1e308, -1e308, math.nan, math.inf, -math.inf, 5e-324]
_INTS = [0, 1, -1, 2, 25, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63)]


def mutated(seeds: list[bytes], draw: Random) -> bytes:
    """An input that is mostly like one of the seeds."""
    data = bytearray(draw.choice(seeds))
    for _ in range(1 << draw.randrange(5)):
        _mutate(data, seeds, draw)
    return bytes(data[:MOST_BYTES])


def _mutate(data: bytearray, seeds: list[bytes], draw: Random) -> None:
    at = draw.randrange(len(data) + 1)
    end = min(at + (1 << draw.randrange(10)), len(data))
    match draw.randrange(9):
        case 0 if at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        case 1 if at < len(data):
            data[at] = draw.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            del data[at:]
        case 4:
            data[at:at] = data[at:end]
        case 5:
            code = draw.choice("BHIQ")
            order = draw.choice("<>")
            size = struct.calcsize(code)
            data[at : at + size] = struct.pack(f"{order}{code}", draw.choice(_NUMBERS) & ((1 << 8 * size) - 1))
        case 6:
            data[at:at] = draw.choice(_WORDS)
        case 7:
            other = draw.choice(seeds)
            begin = draw.randrange(len(other) + 1)
            data[at:end] = other[begin : begin + 64]
        case 8:
            data[at:at] = draw.randbytes(draw.randrange(32))


def message(kind: type[Message], draw: Random, depth: int = 4) -> Any:
    """A message with drawn fields, the odd values among them."""
    made = kind()
    for field in kind.DESCRIPTOR.fields:
        if draw.random() < 0.45:
            continue
        if field.is_repeated:
            if field.message_type and field.message_type.GetOptions().map_entry:
                continue
            for _ in range(draw.randrange(4)):
                _add(getattr(made, field.name), field, draw, depth)
        elif field.message_type:
            if depth:
                getattr(made, field.name).CopyFrom(message(field.message_type._concrete_class, draw, depth - 1))
        else:
            setattr(made, field.name, _value(field, draw))
    return made


def _add(values: Any, field: FieldDescriptor, draw: Random, depth: int) -> None:
    if not field.message_type:
        values.append(_value(field, draw))
    elif depth:
        values.append(message(field.message_type._concrete_class, draw, depth - 1))


def _value(field: FieldDescriptor, draw: Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return draw.randbytes(draw.randrange(64))
        case FieldDescriptor.CPPTYPE_STRING:
            return draw.choice(_TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return draw.randrange(-1, 12)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return draw.choice([*_FLOATS, draw.uniform(0, 100)])
        case FieldDescriptor.CPPTYPE_FLOAT:
            return draw.choice([0.0, -1.0, math.nan, math.inf, 3e38])
        case FieldDescriptor.CPPTYPE_INT32:
            return draw.choice([0, 1, -1, 25, 2**31 - 1, -(2**31)])
        case FieldDescriptor.CPPTYPE_UINT32:
            return draw.choice([0, 1, 25, 2**32 - 1])
        case FieldDescriptor.CPPTYPE_UINT64:
            return draw.choice([0, 1, 2**64 - 1])
    return draw.choice(_INTS)
