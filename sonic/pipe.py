"""Messages over the pipe between an agent and its worker: a four-byte big-endian length, then that many bytes."""

from __future__ import annotations

import asyncio
import struct
from typing import BinaryIO, TypeVar

from google.protobuf.message import DecodeError, Message

MAX_MESSAGE_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")
M = TypeVar("M", bound=Message)


class BrokenMessage(Exception):
    """The other end sent something that is not a message."""


def encode(message: Message) -> bytes:
    """The framed bytes of a message."""
    body = message.SerializeToString()
    return _LENGTH.pack(len(body)) + body


def read(stream: BinaryIO, kind: type[M]) -> M | None:
    """The next message, or None where the stream ends. Raises BrokenMessage."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _checked_size(head)
    body = stream.read(size)
    return _parse(body, kind) if len(body) == size else None


async def read_async(stream: asyncio.StreamReader, kind: type[M]) -> M | None:
    """`read` for an asyncio stream."""
    try:
        size = _checked_size(await stream.readexactly(_LENGTH.size))
        return _parse(await stream.readexactly(size), kind)
    except asyncio.IncompleteReadError:
        return None


def _checked_size(head: bytes) -> int:
    (size,) = _LENGTH.unpack(head)
    if size > MAX_MESSAGE_BYTES:
        raise BrokenMessage(f"a message of {size} bytes was announced; {MAX_MESSAGE_BYTES} is the limit")
    return int(size)


def _parse(body: bytes, kind: type[M]) -> M:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise BrokenMessage(f"{len(body)} bytes are no {kind.DESCRIPTOR.name}") from error
