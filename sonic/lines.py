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

    Without `credentials` it is plain text; `node` says that they are those of one.
    """

    def __init__(
        self,
        target: str,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ChannelCredentials | None = None,
        node: bool = False,
    ) -> None:
        self._addresses = addresses(target)
        self._options = options
        self._credentials = credentials
        self._node = node
        self._now = _Channels(self._open())
        self._former: list[_Channels] = []  # on which calls that began before may still run
        self._at = 0

    def move_on(self) -> None:
        """Call the next hub from now on; with one hub, call it again."""
        self._at = (self._at + 1) % len(self._addresses)

    async def use(self, credentials: grpc.ChannelCredentials) -> None:
        """Make calls with other credentials from now on; those under way go on as they began."""
        self._former.append(self._now)
        self._credentials = credentials
        self._now = _Channels(self._open())
        for idle in [former for former in self._former if not former.running]:
            self._former.remove(idle)
            await idle.close()

    async def trouble(self, error: grpc.aio.AioRpcError) -> str:
        """Which setting of TLS or of the address a failed call speaks of; empty when it is none."""
        address = self._addresses[self._at]
        if error.code() is grpc.StatusCode.UNIMPLEMENTED and self._node:
            return (
                f"what answers at {address} serves no agents, as the port of a hub for callers; is it the right port?"
            )
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return ""
        return await tls.trouble(error.details() or "", address, self._credentials is None, self._node)

    async def close(self) -> None:
        for channels in (*self._former, self._now):
            await channels.close()

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
        of: _Channels | None = None

        def call(*given: Any, **named: Any) -> Any:
            nonlocal made, of
            if of is not self._now:
                of = self._now
                made = [getattr(channel, kind)(*about, **more) for channel in of.channels]
            return of.counted(made[self._at](*given, **named))

        return call


class _Channels:
    """Opened with the same credentials, one for each hub."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self.channels = channels
        self.running = 0  # calls

    def counted(self, call: Any) -> Any:
        self.running += 1
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _: Any) -> None:
        self.running -= 1

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
