"""Calls whose requests stream: gRPC loses the hub's answer when a write fails after it (grpc/grpc#36066)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio

from sonic import statuses

A = TypeVar("A")


async def answered(call: Callable[[], Awaitable[A]]) -> A:
    """The answer to a call, which is made again where it was lost. Raises AioRpcError."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if not statuses.is_lost(error):
                raise
