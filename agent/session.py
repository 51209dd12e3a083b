"""The conversation with the hub: one stream, kept until it breaks. When to open the next one is decided elsewhere."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from agent import wire
from agent.core import events
from agent.telemetry import Telemetry
from agent.workers import Post
from sonic.bundles import bundle, unbundled
from sonic.lines import Line
from sonic.v1 import fleet_service_pb2 as pb

if TYPE_CHECKING:  # the stub of an asyncio channel has a type of its own, which is not there at run time
    from sonic.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub as Stub

WELCOME_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 5.0  # for the last words, and for the hub to have heard them
DEFAULT_HEARTBEAT_S = 5.0
DEFAULT_LEASE_S = 30.0
DEFAULT_CHUNK_BYTES = 1 << 20
ECHO_INTERVAL_S = 60.0
# A dead line is noticed within half a minute. gRPC's own pauses are kept short: the decisions have their own.
_OPTIONS = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_log = logging.getLogger("agent.session")


def open_line(target: str, credentials: grpc.ChannelCredentials | None) -> Line:
    """The one line to the hub, or to several in turn, for the session and all transfers; None is plain text."""
    return Line(target, _OPTIONS, credentials, node=True)


class Session:
    """What is said to the hub, and what it says."""

    def __init__(
        self,
        hub: Stub,
        line: Line,
        post: Post,
        telemetry: Telemetry,
        refused: Callable[[grpc.aio.AioRpcError], None] = lambda _: None,
    ) -> None:
        self._hub = hub
        self._line = line
        self._post = post
        self._telemetry = telemetry
        self._refused = refused
        self._outgoing: asyncio.Queue[pb.SessionRequest | None] = asyncio.Queue()
        self.max_chunk_bytes = DEFAULT_CHUNK_BYTES
        self.clock_offset_s = 0.0  # of this box against the hub, positive when ahead; half a round trip is its error
        self.round_trip_s = 0.0  # of the newest echo; 0 before it
        self._echo = 0
        self._echo_at_s = -math.inf

    def send(self, message: pb.SessionRequest) -> None:
        """Say something in the session that stands; what a cut swallows is said again after it, if it matters."""
        self._outgoing.put_nowait(message)

    def echo(self) -> int:
        """The number by which the hub is to answer the next heartbeat, where the last answer is old; else 0."""
        now_s = time.monotonic()
        if now_s - self._echo_at_s < ECHO_INTERVAL_S:
            return 0
        self._echo, self._echo_at_s = self._echo + 1, now_s
        return self._echo

    def close(self) -> None:
        """Say nothing more; the session ends when everything has been said."""
        self._outgoing.put_nowait(None)

    async def hold(self, hello: pb.Hello) -> None:
        """One session from Hello to its end, which is reported as SessionEnded."""
        detail, level = "the hub could not be called", logging.INFO
        try:
            detail = await self._converse(hello)
        except grpc.aio.AioRpcError as error:
            detail = await self._line.trouble(error) or f"{error.code().name}: {error.details()}"
            if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED):
                level = logging.WARNING  # it will not pass by itself
                self._refused(error)
        except TimeoutError:
            detail = f"the hub did not answer Hello within {WELCOME_TIMEOUT_S:g} s"
        except asyncio.InvalidStateError:
            detail = "the call ended before Hello was said"
        except asyncio.CancelledError:
            detail = "it was cut off here"
            raise
        finally:
            _log.log(level, "session ended", extra={"why": detail})
            self._line.move_on()
            self._post(events.SessionEnded(detail, random.random()))  # noqa: S311 - no secret

    async def _converse(self, hello: pb.Hello) -> str:
        self._outgoing = asyncio.Queue()
        call = self._hub.Session()
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await call.write(pb.SessionRequest(hello=hello))
                first = await call.read()
            if not isinstance(first, pb.SessionResponse) or not first.HasField("welcome"):
                return "the hub did not answer Hello with Welcome"
            self._welcomed(first.welcome)
            await self._talk(call, first.welcome.takes_several)
            return "the hub ended the session"
        finally:
            call.cancel()

    def _welcomed(self, welcome: pb.Welcome) -> None:
        _log.info("session opened", extra={"session_id": welcome.session_id})
        self._echo_at_s = -math.inf
        if welcome.HasField("server_time"):
            self.clock_offset_s = time.time() - welcome.server_time.ToNanoseconds() / 1e9
        self.max_chunk_bytes = min(welcome.max_upload_chunk_bytes or DEFAULT_CHUNK_BYTES, DEFAULT_CHUNK_BYTES)
        interval_s = welcome.heartbeat_interval_seconds or DEFAULT_HEARTBEAT_S
        lease_s = welcome.lease_seconds or DEFAULT_LEASE_S
        self._post(events.Welcomed(interval_s, lease_s, welcome.takes_checkpoints))
        self._telemetry.opened(welcome, self.send)

    async def _talk(self, call: Any, several: bool) -> None:
        writer = asyncio.create_task(self._write(call, several), name="session writer")
        try:
            while isinstance(message := await call.read(), pb.SessionResponse):
                for each in unbundled(message):
                    self._hear(each)
        finally:
            self._telemetry.closed()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)  # the reader has the reason

    def _hear(self, message: pb.SessionResponse) -> None:
        if message.HasField("samples_ack"):
            self._telemetry.acknowledged(list(message.samples_ack.sequences))
        elif message.HasField("echo"):
            self._echoed(message.echo.echo)
        elif event := wire.from_hub(message):
            self._post(event)

    def _echoed(self, number: int) -> None:
        if number == self._echo:
            self.round_trip_s = time.monotonic() - self._echo_at_s

    async def _write(self, call: Any, several: bool) -> None:
        while (message := await self._outgoing.get()) is not None:
            await call.write(bundle(message, self._outgoing) if several else message)
        await call.done_writing()
