"""The small HTTP listener: is it alive, can it work, and its metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.config import InvalidConfig
from sonic import listener
from sonic.http_access import HttpAccess
from sonic.listener import Bearer


@asynccontextmanager
async def serving(
    listen: str, registry: CollectorRegistry, not_ready: Callable[[], str], access: HttpAccess
) -> AsyncIterator[str]:
    """Serve; yields the address with its real port. `not_ready` says why the agent cannot work now, or nothing.

    Raises InvalidConfig when the address cannot be had.
    """
    try:
        async with listener.serving(listen, _application(registry, not_ready, Bearer(access)), access) as address:
            yield address
    except listener.NoAddress as error:
        raise InvalidConfig(
            f"http_listen is {listen!r}, which cannot be used: {error}; choose another port, or 0 for any"
        ) from error


def _application(registry: CollectorRegistry, not_ready: Callable[[], str], bearer: Bearer) -> web.Application:
    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", bearer.readiness(not_ready))
    app.router.add_get("/metrics", bearer.wanted(metrics))
    return app
