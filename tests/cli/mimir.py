"""A server that answers as Mimir does for rules and Alertmanager; promtool and amtool judge what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from tests.servers import binary

_TENANT = re.compile(r"[A-Za-z0-9!_.*'()\-]{1,150}")
_DONE = {"status": "success", "data": None, "errorType": "", "error": ""}


class Request(NamedTuple):
    method: str
    path: str
    tenant: str


class Mimir:
    """What it holds is by tenant. `answer_with` is a status to be answered with instead of everything."""

    def __init__(self) -> None:
        self.rules: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        self.routings: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.authorization = ""  # which every request must have
        self.answer_with: tuple[int, str] | None = None
        self.none_yet = (200, "{}")
        self.writes_before_silence = 1000  # then it does not answer any more
        self.silent = asyncio.Event()
        self.url = ""

    @property
    def writes(self) -> list[Request]:
        return [request for request in self.requests if request.method != "GET"]

    def groups(self, tenant: str) -> dict[str, list[str]]:
        """Names by namespace."""
        return {namespace: sorted(groups) for namespace, groups in self.rules[tenant].items() if groups}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Mimir]:
        app = web.Application(middlewares=[self._as_a_tenant])
        rules = "/prometheus/config/v1/rules"
        app.router.add_get(rules, self._get_rules)
        app.router.add_post(rules + "/{namespace}", self._set_group)
        app.router.add_delete(rules + "/{namespace}/{group}", self._delete_group)
        app.router.add_get("/api/v1/alerts", self._get_routing)
        app.router.add_post("/api/v1/alerts", self._set_routing)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1/push"
        try:
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _as_a_tenant(self, request: web.Request, handler: Any) -> web.StreamResponse:
        tenant = request.headers.get("X-Scope-OrgID", "")
        self.requests.append(Request(request.method, request.path, tenant))
        if self.answer_with:
            return web.Response(status=self.answer_with[0], text=self.answer_with[1])
        if request.headers.get("Authorization", "") != self.authorization:
            return web.Response(status=401, text="Unauthorized")
        if not _TENANT.fullmatch(tenant):
            return web.Response(status=401, text="no org id")
        if len(self.writes) > self.writes_before_silence:
            self.silent.set()
            await asyncio.sleep(60)
        return await handler(request)

    async def _get_rules(self, request: web.Request) -> web.Response:
        if not (namespaces := self.groups(_tenant(request))):
            return web.Response(status=self.none_yet[0], text=self.none_yet[1])
        held = {name: list(self.rules[_tenant(request)][name].values()) for name in namespaces}
        return web.Response(text=yaml.safe_dump(held), content_type="application/yaml")

    async def _set_group(self, request: web.Request) -> web.Response:
        text = await request.text()
        try:
            group = yaml.safe_load(text)
            held = self.rules[_tenant(request)]
            if problem := await _promtool(group):
                return web.Response(status=400, text=problem)
        except (yaml.YAMLError, TypeError) as error:
            return web.Response(status=400, text=f"unable to decode rule group: {error}")
        if len(group["rules"]) > 20:
            return web.Response(status=400, text="per-user rules per rule group limit (limit: 20) exceeded")
        if sum(map(len, held.values())) + (group["name"] not in held[request.match_info["namespace"]]) > 70:
            return web.Response(status=400, text="per-user rule groups limit (limit: 70) exceeded")
        held[request.match_info["namespace"]][group["name"]] = as_go_writes(group)
        return web.json_response(_DONE, status=202)

    async def _delete_group(self, request: web.Request) -> web.Response:
        self.rules[_tenant(request)][request.match_info["namespace"]].pop(request.match_info["group"], None)
        return web.json_response(_DONE, status=202)

    async def _get_routing(self, request: web.Request) -> web.Response:
        if not (held := self.routings.get(_tenant(request))):
            return web.Response(status=404, text="alertmanager storage object not found\n")
        return web.Response(text=yaml.safe_dump(held), content_type="application/yaml")

    async def _set_routing(self, request: web.Request) -> web.Response:
        content = yaml.safe_load(await request.text())
        if problem := await _amtool(content):
            return web.Response(status=400, text=f"error validating Alertmanager config: {problem}")
        self.routings[_tenant(request)] = content
        return web.Response(status=201)


def _tenant(request: web.Request) -> str:
    return request.headers["X-Scope-OrgID"]


def as_go_writes(group: dict[str, Any]) -> dict[str, Any]:
    """Durations in the largest units that fit, and what is empty left out."""
    durations = ("interval", "for", "keep_firing_for")
    found = {key: _go_duration(value) if key in durations else value for key, value in group.items()}
    if "rules" in group:
        found["rules"] = [as_go_writes(rule) for rule in group["rules"]]
    return {key: value for key, value in found.items() if value not in ({}, [], "", "0s", 0)}


def _go_duration(text: str) -> str:
    units = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    left = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[wdhms])", text))
    said = ""
    for unit, size in units.items():
        if left >= size and not (unit == "w" and left % size):
            said += f"{left // size}{unit}"
            left %= size
    return said or "0s"


async def _promtool(group: dict[str, Any]) -> str:
    """What is wrong with it; it must have a name and rules."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"groups": [group]}, file)
        file.flush()
        return await _said(binary("promtool"), "check", "rules", file.name)


async def _amtool(content: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alertmanager.yml"
        path.write_text(content["alertmanager_config"])
        for name, text in content["template_files"].items():
            (path.parent / name).write_text(text)
        return await _said(binary("amtool"), "check-config", str(path))


async def _said(*command: str | Path) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr) if done.returncode else ""
