"""The small HTTP listener: is it alive, can it work, and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.exposition import choose_encoder

from hub.server import access, metrics


def application(not_ready: Callable[[], str], observe: Callable[[], None]) -> web.Application:
    """`not_ready` says why the hub cannot work now, empty when it can; `observe` brings the gauges up to date."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def show_metrics(request: web.Request) -> web.Response:
        observe()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, metrics.REGISTRY)  # a large fleet's takes a while
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application(client_max_size=1024, middlewares=[_declared])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    return app


@web.middleware
async def _declared(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A route that `hub.server.access` does not declare is denied; one that does not exist is not found."""
    resource = request.match_info.route.resource
    verb = "GET" if request.method == "HEAD" else request.method
    if resource is not None and (verb, resource.canonical) not in access.ROUTES:
        raise web.HTTPForbidden(text="nobody may call this\n")
    return await handler(request)
