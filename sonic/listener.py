"""The small HTTP listener of hubs and agents: TLS and bearer tokens where they are set, and no guest that only sits.

aiohttp waits for the head of a request for ever. Here a connection without a whole request is closed after
REQUEST_TIMEOUT_S, and so is one whose next request, or whose reader, takes longer than connections are kept.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from sonic.http_access import HttpAccess, tokens
from sonic.oidc import Expected, Issuer, IssuerUnreachable, TokenRefused

REQUEST_TIMEOUT_S = 10.0  # for a handshake, and for the first request of a connection
KEEP_ALIVE_S = 75.0  # longer than scrapes are apart
MOST_CONNECTIONS = 200
MOST_HEADERS, MOST_HEADER_BYTES = 64, 8 << 10
LOOK_INTERVAL_S = 1.0
_TOLD_INTERVAL_S = 10.0
_log = logging.getLogger("sonic.listener")
_broken = logging.getLogger("sonic.listener.requests")
# Whoever sends what is no HTTP is answered, and fills no log with it.
_broken.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bearer:
    """Whose requests are answered in full. Where nothing is set, everybody's who reaches the listener."""

    def __init__(self, access: HttpAccess) -> None:
        self._token_file = access.token_file
        expected = Expected(access.oidc_issuer, access.oidc_audience)
        self._issuer = Issuer(expected) if access.oidc_issuer else None
        self._told_s = -_TOLD_INTERVAL_S

    async def problem(self, request: web.Request) -> str:
        """Why a request is not answered in full; empty when it is. Raises IssuerUnreachable."""
        if not self._token_file and not self._issuer:
            return ""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return "a bearer token is wanted"
        if self._token_file and _is_among(token, tokens(self._token_file)):
            return ""
        if not self._issuer:
            return "the token is not known here"
        try:
            await self._issuer.claims(token)
        except TokenRefused as error:
            return f"the token is refused: {error}"
        return ""

    def wanted(self, handler: Handler) -> Handler:
        """The handler, for those with a token alone."""

        async def call(request: web.Request) -> web.StreamResponse:
            try:
                problem = await self.problem(request)
            except IssuerUnreachable as error:
                return web.Response(text=f"{error}\n", status=503)
            if not problem:
                return await handler(request)
            if time.monotonic() - self._told_s >= _TOLD_INTERVAL_S:
                self._told_s = time.monotonic()
                _log.warning("request refused", extra={"path": request.path, "from": request.remote, "why": problem})
            return web.Response(text=f"{problem}\n", status=401, headers={"WWW-Authenticate": "Bearer"})

        return call

    def readiness(self, not_ready: Callable[[], str]) -> Handler:
        """A handler for everybody, which gives the reason to those with a token alone."""

        async def readyz(request: web.Request) -> web.Response:
            reason = not_ready()
            if reason:
                with suppress(IssuerUnreachable):
                    reason = reason if not await self.problem(request) else "not ready"
            return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

        return readyz


class NoAddress(Exception):
    """The address cannot be listened at; the message says why."""


@asynccontextmanager
async def serving(listen: str, app: web.Application, access: HttpAccess) -> AsyncIterator[str]:
    """Serve at host:port; yields the address with its real port. Raises NoAddress."""
    host, _, port = listen.rpartition(":")
    context = access.context()
    guests = _Guests()
    app.middlewares.append(guests.middleware)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_broken,
        keepalive_timeout=KEEP_ALIVE_S,
        max_headers=MOST_HEADERS,
        max_field_size=MOST_HEADER_BYTES,
        max_line_size=MOST_HEADER_BYTES,
    )
    await runner.setup()
    assert runner.server
    handlers = runner.server

    def accept() -> asyncio.Protocol:
        return _Full() if len(handlers.connections) >= MOST_CONNECTIONS else handlers()

    handshake_s = REQUEST_TIMEOUT_S if context else None
    try:
        server = await asyncio.get_running_loop().create_server(
            accept, host.strip("[]"), int(port), ssl=context, ssl_handshake_timeout=handshake_s
        )
    except OSError as error:
        await runner.cleanup()
        raise NoAddress(error.strerror) from error
    watch = asyncio.create_task(_watch(handlers, guests, access, context), name="http guests")
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        watch.cancel()
        server.close()
        await runner.cleanup()


class _Full(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Guests:
    """When each connection has to have asked, or gone."""

    def __init__(self) -> None:
        self._until: dict[web.RequestHandler, float] = {}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._until[request.protocol] = float("inf")
        try:
            return await handler(request)
        finally:
            self._until[request.protocol] = time.monotonic() + KEEP_ALIVE_S + REQUEST_TIMEOUT_S

    def send_away(self, connections: list[web.RequestHandler]) -> None:
        """Close the connections that have only sat."""
        now = time.monotonic()
        self._until = {one: self._until.get(one, now + REQUEST_TIMEOUT_S) for one in connections}
        for connection, until in self._until.items():
            if now > until and connection.transport:
                connection.transport.abort()


async def _watch(handlers: web.Server, guests: _Guests, access: HttpAccess, context: ssl.SSLContext | None) -> None:
    stamp = _stamp(access)
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        guests.send_away(handlers.connections)
        if context and _stamp(access) != stamp:
            stamp = _stamp(access)
            try:
                context.load_cert_chain(str(access.certificate_file), access.key_file)
                _log.info("the certificate was read again", extra={"file": str(access.certificate_file)})
            except OSError as error:  # the two files are written one after the other
                _log.warning("the certificate cannot be read", extra={"why": str(error)})


def _stamp(access: HttpAccess) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for file in filter(None, (access.certificate_file, access.key_file)):
        with suppress(OSError):
            about = Path(file).stat()
            found.append((about.st_mtime_ns, about.st_ino))
    return found


def _is_among(token: str, known: list[bytes]) -> bool:
    given = token.encode("utf-8", "surrogateescape")
    return any([hmac.compare_digest(given, one) for one in known])  # all are compared, whichever fits
