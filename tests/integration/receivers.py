"""A real Prometheus for each tenant, behind a gateway that goes by X-Scope-OrgID as Mimir does and can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from tests.processes import Process, free_port, process, wait_until_ready
from tests.servers import binary


class Stored(NamedTuple):
    """A sample, by what identifies it."""

    labels: frozenset[tuple[str, str]]
    at_unix_ms: int


class Prometheus:
    """One server with a receiver for remote write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        (folder / "prometheus.yml").write_text("global: {}\n")
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [str(binary("prometheus")), "--web.enable-remote-write-receiver"]
        self.command += [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        self.command += [f"--web.listen-address=127.0.0.1:{self.port}"]
        self.process = Process(self.command, folder / "log")

    async def ready(self) -> None:
        await asyncio.to_thread(wait_until_ready, f"{self.url}/-/ready", self.process)

    async def query(self, query: str) -> list[dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/api/v1/query", params={"query": query}) as got,
        ):
            answer = await got.json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    async def stored(self, selector: str) -> dict[Stored, float]:
        """Every sample of the last hour."""
        return {
            Stored(frozenset(series["metric"].items()), round(float(at) * 1000)): float(value)
            for series in await self.query(f"{selector}[1h]")
            for at, value in series["values"]
        }


class Gateway:
    """Passes requests on by tenant. `faults` are statuses to be answered with instead, one for each request."""

    def __init__(self, tenants: dict[str, Prometheus]) -> None:
        self.tenants = tenants
        self.faults: dict[str, deque[int]] = defaultdict(deque)
        self.answers: dict[str, Counter[int]] = defaultdict(Counter)
        self.retries: list[tuple[str, str]] = []  # tenant, Retry-Attempt
        self.url = ""

    async def push(self, request: web.Request) -> web.Response:
        tenant = request.headers.get("X-Scope-OrgID", "")
        if "Retry-Attempt" in request.headers:
            self.retries.append((tenant, request.headers["Retry-Attempt"]))
        answer = await self._answer(tenant, request)
        self.answers[tenant][answer.status] += 1
        return answer

    async def _answer(self, tenant: str, request: web.Request) -> web.Response:
        if tenant not in self.tenants:
            return web.Response(status=401, text="no org id")
        if self.faults[tenant]:
            return web.Response(status=self.faults[tenant].popleft(), headers={"Retry-After": "1"})
        headers = {name: value for name, value in request.headers.items() if name.startswith(("Content-", "X-Prom"))}
        url = f"{self.tenants[tenant].url}/api/v1/write"
        try:
            async with self._http.post(url, data=await request.read(), headers=headers) as response:
                return web.Response(status=response.status, text=await response.text())
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/api/v1/push", self.push)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1/push"
        async with aiohttp.ClientSession(auto_decompress=False) as self._http:
            yield
        await runner.cleanup()


@contextlib.asynccontextmanager
async def receivers(folder: Path, *tenants: str) -> AsyncIterator[Gateway]:
    """A gateway with a Prometheus for each tenant."""
    gateway = Gateway({tenant: Prometheus(folder / tenant) for tenant in tenants})
    with contextlib.ExitStack() as stack:
        for one in gateway.tenants.values():
            one.process = stack.enter_context(process(one.command, one.folder / "log"))
        for one in gateway.tenants.values():
            await one.ready()
        async with gateway.serving():
            yield gateway


async def until(told: Any, what: str, patience_s: float = 120) -> None:
    """Until something has come true; `told` is a coroutine function."""
    limit = time.monotonic() + patience_s
    while not await told():
        assert time.monotonic() < limit, what
        await asyncio.sleep(0.1)
