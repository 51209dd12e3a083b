"""What has to change in Mimir so that it has what the files say, and the changing."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.core.tenants import tenant_problem
from hub.forward.config import ForwardConfig
from hub.rules import groups
from hub.rules.alertmanager import Routing
from hub.rules.groups import Group, Namespaces
from hub.rules.mimir import Mimir
from sonic.exceptions import BadRules, BadSettings


@dataclass(frozen=True)
class Change:
    """One group, or Alertmanager's configuration, of one tenant; None stands for none."""

    tenant: str
    namespace: str  # empty: Alertmanager's configuration
    name: str
    before: Group | Routing | None
    after: Group | Routing | None

    @property
    def kind(self) -> str:
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def what(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else "Alertmanager's configuration"

    @property
    def diff(self) -> str:
        """A unified diff. Secrets of Alertmanager's configuration are in none."""
        before, after = _shown(self.before), _shown(self.after)
        title = f"{self.tenant}: {self.what}"
        lines = list(difflib.unified_diff(before, after, f"{title} (in Mimir)", f"{title} (here)", lineterm=""))
        return "\n".join(lines or [f"{title}: secrets differ"])


@dataclass(frozen=True)
class Wanted:
    """What a tenant should have; a routing of None leaves the one that is there alone."""

    rules: Namespaces
    routing: Routing | None = None


def wanted(
    folder: Path, config: ForwardConfig, tenants: Iterable[str], routings: Mapping[str, Routing]
) -> dict[str, Wanted]:
    """For the operator and these tenants, from a folder with operator/*.yml and tenant/*.yml.

    Raises BadRules, BadSettings.
    """
    operator, named = config.operator_tenant, list(dict.fromkeys(tenants))
    for tenant in named:
        if problem := tenant_problem(tenant):
            raise BadSettings(f"--tenant {problem}")
    together = not config.tenant_header and "{tenant}" not in config.url
    if together and set(named) - {operator}:
        raise BadSettings(
            "[forward] tenant_header is empty and there is no {tenant} in url, so all tenants are one to Mimir; "
            f"name only the operator's, {operator!r}"
        )
    if unknown := set(routings) - {operator, *named}:
        raise BadSettings(f"--alertmanager is for {min(unknown)!r}, which no --tenant names")
    of_operator, of_tenant = groups.read(folder, "operator"), groups.read(folder, "tenant")
    if not of_operator and not of_tenant:
        raise BadRules(f"{folder} holds neither operator/*.yml nor tenant/*.yml")
    found = {tenant: of_tenant for tenant in named}
    found = {operator: of_operator | found.get(operator, {})} | {
        t: rules for t, rules in found.items() if t != operator
    }
    return {tenant: Wanted(rules, routings.get(tenant)) for tenant, rules in found.items()}


async def between(mimir: Mimir, wanted: Mapping[str, Wanted]) -> list[Change]:
    """What differs for these tenants. Additions come before removals, so that no rule is missed meanwhile."""
    found = [change for tenant, one in wanted.items() for change in await _of_tenant(mimir, tenant, one)]
    return sorted(found, key=lambda change: (list(wanted).index(change.tenant), change.after is None))


async def carried_out(mimir: Mimir, changes: Iterable[Change]) -> AsyncIterator[Change]:
    """Each change once it is made. Each is whole or not at all; what was not reached is found again by `between`."""
    for change in changes:
        if isinstance(change.after, Routing):
            await mimir.set_routing(change.tenant, change.after)
        elif change.after is not None:
            await mimir.set_group(change.tenant, change.namespace, change.after)
        else:
            await mimir.delete_group(change.tenant, change.namespace, change.name)
        yield change


async def _of_tenant(mimir: Mimir, tenant: str, wanted: Wanted) -> list[Change]:
    before, after = _flat(await mimir.rules(tenant)), _flat(wanted.rules)
    found = [
        Change(tenant, *key, before.get(key), after.get(key))
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    ]
    if wanted.routing:
        there = await mimir.routing(tenant)
        if there is None or there.meaning != wanted.routing.meaning:
            found.append(Change(tenant, "", "", there, wanted.routing))
    return found


def _flat(namespaces: Namespaces) -> dict[tuple[str, str], Group]:
    return {(namespace, name): group for namespace, listed in namespaces.items() for name, group in listed.items()}


def _shown(one: Any) -> list[str]:
    if one is None:
        return []
    return (one.shown if isinstance(one, Routing) else groups.dumped(one)).splitlines()
