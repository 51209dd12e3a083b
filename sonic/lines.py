"""One line to whichever of several hubs answers: calls go to the same one until it is found gone, then to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import grpc.aio

from sonic.addresses import addresses


class Line:
    """Stubs take it for a channel. Calls that are under way stay with the hub where they began."""

    def __init__(self, target: str, options: Sequence[tuple[str, Any]]) -> None:
        self._channels = [grpc.aio.insecure_channel(address, options=options) for address in addresses(target)]
        self._at = 0

    def move_on(self) -> None:
        """Call the next hub from now on; with one hub, call it again."""
        self._at = (self._at + 1) % len(self._channels)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # What stubs are made of.

    def unary_unary(self, *about: Any, **more: Any) -> Any:
        return self._callable("unary_unary", *about, **more)

    def unary_stream(self, *about: Any, **more: Any) -> Any:
        return self._callable("unary_stream", *about, **more)

    def stream_unary(self, *about: Any, **more: Any) -> Any:
        return self._callable("stream_unary", *about, **more)

    def stream_stream(self, *about: Any, **more: Any) -> Any:
        return self._callable("stream_stream", *about, **more)

    def _callable(self, kind: str, *about: Any, **more: Any) -> Any:
        made = [getattr(channel, kind)(*about, **more) for channel in self._channels]
        return lambda *given, **named: made[self._at](*given, **named)
