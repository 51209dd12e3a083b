"""A TCP proxy that cuts connections, for a network that does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Passes bytes on until `cut_after` of them have gone in one direction, which happens `cuts` times."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = ""
        self.sent_bytes = 0  # from clients
        self.received_bytes = 0  # to clients
        self.cut_after_sent = self.cut_after_received = 0  # 0: never
        self.cuts = 0
        self.open = True
        self.refused = 0

    def cut(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            self.refused += 1
            writer.transport.abort()
            return
        try:
            to_hub = await asyncio.open_connection(*self._target)
        except ConnectionError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_hub[1]}
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await asyncio.gather(self._pass(reader, to_hub[1], True), self._pass(to_hub[0], writer, False))
        for end in (writer, to_hub[1]):
            end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sending: bool) -> None:
        while data := await reader.read(16_384):
            if sending:
                self.sent_bytes += len(data)
                if self.cut_after_sent and self.sent_bytes > self.cut_after_sent:
                    self.cut_after_sent = 0
                    self.cut()
            else:
                self.received_bytes += len(data)
                if self.cut_after_received and self.received_bytes > self.cut_after_received:
                    self.cut_after_received = 0
                    self.cut()
            writer.write(data)
            await writer.drain()
        raise ConnectionError


@contextlib.asynccontextmanager
async def proxy_to(target: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
