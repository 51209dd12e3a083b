"""The small HTTP listener: is it alive, can it work, and its metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.config import InvalidConfig


@asynccontextmanager
async def serving(listen: str, registry: CollectorRegistry, not_ready: Callable[[], str]) -> AsyncIterator[str]:
    """Serve; yields the address with its real port. `not_ready` says why the agent cannot work now, or nothing.

    Raises InvalidConfig when the address cannot be had.
    """
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(_application(registry, not_ready), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise InvalidConfig(
            f"http_listen is {listen!r}, which cannot be used: {error.strerror}; choose another port, or 0 for any"
        ) from error
    try:
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _application(registry: CollectorRegistry, not_ready: Callable[[], str]) -> web.Application:
    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
