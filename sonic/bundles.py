"""Messages of a session that wait together travel as one, where the other side takes several: each has its cost.

The first brings the others as `more`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from sonic.v1 import fleet_service_pb2 as pb

MOST_BYTES = 64 << 10  # of a message that takes another in
MOST_MESSAGES = 256
M = TypeVar("M", pb.SessionRequest, pb.SessionResponse)


def bundle(first: M, waiting: asyncio.Queue[M | None]) -> M:
    """`first`, with what waits behind it; None, the end, goes on waiting."""
    if waiting.empty():
        return first
    made = type(first)()
    made.CopyFrom(first)  # its sender may keep it
    size_bytes = made.ByteSize()
    while not waiting.empty() and size_bytes < MOST_BYTES and len(made.more) < MOST_MESSAGES - 1:
        message = waiting.get_nowait()
        if message is None:
            waiting.put_nowait(None)
            break
        made.more.append(message)
        size_bytes += message.ByteSize()
    return made


def unbundled(message: M) -> Sequence[M]:
    """All messages that one has brought, in their order."""
    return (message, *message.more[: MOST_MESSAGES - 1]) if message.more else (message,)
