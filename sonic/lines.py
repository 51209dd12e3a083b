"""One line to whichever of several hubs answers: calls go to the same one until it is found gone, then to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import grpc
import grpc.aio

from sonic import tls
from sonic.addresses import addresses


class Line:
    """Stubs take it for a channel. Calls that are under way stay with the hub where they began.

    Without `credentials` it is plain text.
    """

    def __init__(
        self, target: str, options: Sequence[tuple[str, Any]], credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self._addresses = addresses(target)
        self._options = options
        self._credentials = credentials
        self._channels = self._open()
        self._former: list[grpc.aio.Channel] = []  # on which calls that began before may still run
        self._at = 0

    def move_on(self) -> None:
        """Call the next hub from now on; with one hub, call it again."""
        self._at = (self._at + 1) % len(self._channels)

    async def use(self, credentials: grpc.ChannelCredentials) -> None:
        """Make calls with other credentials from now on; those under way go on as they began, until the next change."""
        before, self._former = self._former, self._channels
        self._credentials = credentials
        self._channels = self._open()
        for channel in before:
            await channel.close()

    async def trouble(self, error: grpc.aio.AioRpcError) -> str:
        """Which setting of TLS a failed call speaks of; empty when it is none."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return ""
        return await tls.trouble(error.details() or "", self._addresses[self._at], self._credentials is None)

    async def close(self) -> None:
        for channel in (*self._former, *self._channels):
            await channel.close()

    def _open(self) -> list[grpc.aio.Channel]:
        if self._credentials is None:
            return [grpc.aio.insecure_channel(address, options=self._options) for address in self._addresses]
        return [
            grpc.aio.secure_channel(address, self._credentials, options=self._options) for address in self._addresses
        ]

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
        made: list[Any] = []
        of: list[grpc.aio.Channel] = []

        def call(*given: Any, **named: Any) -> Any:
            nonlocal made, of
            if of is not self._channels:
                of = self._channels
                made = [getattr(channel, kind)(*about, **more) for channel in of]
            return made[self._at](*given, **named)

        return call
