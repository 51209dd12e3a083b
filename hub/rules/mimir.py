"""Mimir's API for rules and for Alertmanager's configuration, one tenant at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from hub.forward.config import ForwardConfig
from hub.forward.sink import NoToken, Tokens, open_http
from hub.rules import groups
from hub.rules.alertmanager import Routing
from hub.rules.groups import Group, Namespaces
from sonic.exceptions import BadRules, BadSettings, MimirRefused, MimirUnreachable

_PUSH = "/api/v1/push"
_RULES = "/prometheus/config/v1/rules"
_ALERTMANAGER = "/api/v1/alerts"
_NONE_YET = ("no rule groups found", "alertmanager storage object not found")  # a 404 that is an answer
_MAX_TEXT = 2000  # characters of a refusal that are told


class Mimir:
    """Raises MimirUnreachable, MimirRefused, BadRules (what was sent cannot be used), BadSettings (it is no Mimir)."""

    def __init__(self, config: ForwardConfig, http: aiohttp.ClientSession) -> None:
        self._config = config
        self._http = http
        self._tokens = Tokens(config, http)

    async def rules(self, tenant: str) -> Namespaces:
        """What is in our namespaces."""
        content = await self._get(tenant, _RULES)
        try:
            return {
                namespace: {group["name"]: groups.normalised(group) for group in listed}
                for namespace, listed in content.items()
                if namespace.startswith(groups.OURS)
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadSettings(
                f"{self._base(tenant)}{_RULES} answered with something else than rules: {error}"
            ) from error

    async def set_group(self, tenant: str, namespace: str, group: Group) -> None:
        """A group takes the place of the one of its name, whole."""
        what = f"group {group['name']!r} of {namespace}"
        await self._call("POST", tenant, f"{_RULES}/{_part(namespace)}", groups.dumped(group), what)

    async def delete_group(self, tenant: str, namespace: str, name: str) -> None:
        """A namespace ends with its last group."""
        await self._call("DELETE", tenant, f"{_RULES}/{_part(namespace)}/{_part(name)}")

    async def routing(self, tenant: str) -> Routing | None:
        content = await self._get(tenant, _ALERTMANAGER)
        if not content:
            return None
        return Routing(content.get("alertmanager_config") or "", dict(content.get("template_files") or {}))

    async def set_routing(self, tenant: str, routing: Routing) -> None:
        body = {"template_files": routing.templates, "alertmanager_config": routing.text}
        await self._call("POST", tenant, _ALERTMANAGER, groups.dumped(body), "Alertmanager's configuration")

    async def _get(self, tenant: str, path: str) -> dict[str, Any]:
        text = await self._call("GET", tenant, path)
        where = f"{self._base(tenant)}{path}"
        try:
            content = groups.parsed(text, where) if text else {}
        except BadRules as error:
            raise BadSettings(f"{where} answered with something else than YAML; is it a Mimir?") from error
        if not isinstance(content, dict):
            raise BadSettings(f"{where} answered with something else than a mapping; is it a Mimir?")
        return content

    async def _call(self, method: str, tenant: str, path: str, body: str | None = None, what: str = "") -> str:
        """The text of the answer; empty when there is nothing yet."""
        config, base = self._config, self._base(tenant)
        headers = {config.tenant_header: tenant} if config.tenant_header else {}
        try:
            headers |= await self._tokens.header()
            headers |= {"Content-Type": "application/yaml"} if body is not None else {}
            url = URL(base + path, encoded=True)
            async with self._http.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
                status, text = answer.status, await answer.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError, NoToken) as error:
            why = str(error) or type(error).__name__
            raise MimirUnreachable(f"Mimir at {base} did not answer: {why}; check [forward] url") from error
        if status // 100 == 2:
            return text
        if status == 404 and method == "GET" and any(words in text for words in _NONE_YET):
            return ""
        raise _refusal(
            f"Mimir at {base} answered {status}", base + path, status, text.strip()[:_MAX_TEXT], tenant, what
        )

    def _base(self, tenant: str) -> str:
        return self._config.url.removesuffix(_PUSH).replace("{tenant}", tenant)


@asynccontextmanager
async def open_mimir(config: ForwardConfig) -> AsyncIterator[Mimir]:
    """The Mimir that metrics are forwarded to. Raises BadSettings when they go nowhere, or to something else."""
    if not config.url:
        raise BadSettings("[forward] url is empty, so there is no Mimir; set it, or pass --forward-url")
    if not config.url.endswith(_PUSH):
        raise BadSettings(
            f"[forward] url is {config.url!r}, which does not end in {_PUSH} as Mimir's does; only Mimir takes rules "
            "over its API, for a Prometheus name the files in rule_files"
        )
    async with open_http(config) as http:
        yield Mimir(config, http)


def _part(name: str) -> str:
    return quote(name, safe="")


def _refusal(said: str, url: str, status: int, text: str, tenant: str, what: str) -> Exception:
    told = f"{said} for tenant {tenant!r}: {text or 'no reason given'}"
    if status in (400, 413, 422) and what:
        return BadRules(f"Mimir refused {what} for tenant {tenant!r}: {text or status}")
    if status in (401, 403):
        return MimirRefused(f"{told}; check tenant_header and the credentials in [forward]")
    if status == 429:
        return MimirRefused(f"{told}; try again later")
    if status >= 500:
        return MimirUnreachable(f"{told}; try again later")
    return BadSettings(
        f"{url} answered {status}, as no Mimir does whose ruler and Alertmanager have their API on; check [forward] url"
    )
