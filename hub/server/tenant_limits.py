"""The limits of tenants at the door: read from a file that may change while the hub runs.

[default]                   # of every tenant without a table of its own, and of what such a table leaves out
weight = 1.0
max_queued = 10_000
[tenant.acme]
weight = 5.0
max_running = 40
submits_per_minute = 600
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hub import exceptions
from hub.config import InvalidConfig
from hub.core.tenants import Limits, Rate, TenantLimits, tenant_problem
from sonic import texts
from sonic.config import nearest

LOOK_INTERVAL_S = 2.0
RETRY_S = 30.0  # where it is not known how fast a tenant's queue drains
_LONGEST_RETRY_S = 300.0
_DRAIN_WINDOW_S = 60.0
_ALWAYS_COUNTED = 1000  # jobs in a queue: counting more takes the store its time
_KEYS = {f.name: "a number above 0" for f in fields(TenantLimits)} | {
    "max_queued": "a whole number of 1 or more, or inf",
    "max_running": "a whole number of 1 or more, or inf",
    "submits_per_minute": "a number above 0, or inf",
}
_TABLES = ("default", "tenant")
_log = logging.getLogger("hub.tenants")


def read(path: Path, base: TenantLimits) -> Limits:
    """The limits in a file; `base` are those of a tenant of which it says nothing. Raises InvalidConfig."""
    try:
        content = texts.toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"tenants_file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidConfig(f"tenants_file {path} cannot be read: {error}") from error
    problems = [f"[{name}] does not exist; {nearest(name, _TABLES)}" for name in content if name not in _TABLES]
    default = _limits("[default]", content.get("default", {}), base, problems)
    named: dict[str, TenantLimits] = {}
    tables = content.get("tenant", {})
    if not isinstance(tables, dict):
        problems.append("tenant is a table of tables; write [tenant.NAME] on a line of its own")
        tables = {}
    for name, table in tables.items():
        if problem := tenant_problem(name):
            problems.append(f"[tenant.{name}] {problem}")
        named[name] = _limits(f"[tenant.{name}]", table, default, problems)
    if problems:
        raise InvalidConfig("\n".join(f"tenants_file {path}: {problem}" for problem in problems))
    return Limits(default, named)


def _limits(where: str, table: Any, base: TenantLimits, problems: list[str]) -> TenantLimits:
    if not isinstance(table, dict):
        problems.append(f"{where} is {table!r}; a table is wanted")
        return base
    good: dict[str, Any] = {}
    for name, value in table.items():
        if name not in _KEYS:
            problems.append(f"{where} has {name!r}, which does not exist; {nearest(name, _KEYS)}")
        elif not _usable(name, value):
            problems.append(f"{where} {name} is {value!r}; {_KEYS[name]} is wanted")
        else:
            good[name] = value
    return replace(base, **good)


def _usable(name: str, value: Any) -> bool:
    if type(value) not in (int, float) or math.isnan(value) or value <= 0:
        return False
    if name.startswith("max_"):
        return type(value) is int or math.isinf(value)
    return name != "weight" or not math.isinf(value)


@dataclass
class _Drain:
    """How many of a tenant's jobs had been started at a moment."""

    started: int
    at_s: float


class Door:
    """Lets a tenant's submissions in, or says when to come back."""

    def __init__(self, waiting: Callable[[str], int], started: Callable[[str], int]) -> None:
        """`waiting` and `started` tell how many of a tenant's jobs wait, and how many have ever left the queue."""
        self.limits = Limits()
        self._waiting = waiting
        self._started = started
        self._coming: dict[str, int] = {}  # let in, and not yet in the queue
        self._rates: dict[str, Rate] = {}
        self._drains: dict[str, _Drain] = {}

    def has_room(self, tenant: str, count: int) -> bool:
        """Whether so many could come in, and none of them is counted against a rate."""
        limits = self.limits.of(tenant)
        queued = self._waiting(tenant) + self._coming.get(tenant, 0)
        return math.isinf(limits.submits_per_minute) and queued + count <= limits.max_queued

    @contextmanager
    def passing(self, tenant: str, count: int) -> Iterator[float]:
        """So many new jobs come in. Raises LimitReached.

        Yields how many the store may let wait: what other hubs have taken in just now, this one has not heard of yet.
        It need not count a long queue as long as it is less than half full here.
        """
        now = time.monotonic()
        limits = self.limits.of(tenant)
        coming = self._coming.get(tenant, 0)
        self._check_room(tenant, limits, coming, count, now)
        self._check_rate(tenant, limits, count, now)
        self._coming[tenant] = coming + count
        try:
            roomy = (
                limits.max_queued > _ALWAYS_COUNTED and self._waiting(tenant) + coming + count < limits.max_queued / 2
            )
            yield math.inf if roomy else limits.max_queued
        finally:
            if left := self._coming.pop(tenant, 0) - count:  # gone already when all others of the tenant were repeats
                self._coming[tenant] = left

    def _check_room(self, tenant: str, limits: TenantLimits, coming: int, count: int, now: float) -> None:
        queued = self._waiting(tenant) + coming
        drain_s = self._drain_s(tenant, queued + count - limits.max_queued, now)
        if queued + count > limits.max_queued:
            raise _full(tenant, limits, queued, count, drain_s)

    def full(self, tenant: str, queued: int, count: int) -> exceptions.LimitReached:
        """The refusal of so many jobs that were let in, and for which the store had no room beside `queued` others."""
        if rate := self._rates.get(tenant):
            rate.tokens += count
        limits = self.limits.of(tenant)
        drain_s = self._drain_s(tenant, queued + count - limits.max_queued, time.monotonic())
        return _full(tenant, limits, queued, count, drain_s)

    def _drain_s(self, tenant: str, surplus: float, now: float) -> float:
        """When so many more will have left the queue, at the pace of the last minute."""
        started = self._started(tenant)
        since = self._drains.get(tenant)
        if since is None:
            since = self._drains[tenant] = _Drain(started, now)
        pace = (started - since.started) / max(now - since.at_s, 1.0)
        if now - since.at_s > _DRAIN_WINDOW_S:
            self._drains[tenant] = _Drain(started, now)
        return min(max(surplus / pace, 1.0), _LONGEST_RETRY_S) if pace > 0 else RETRY_S

    def _check_rate(self, tenant: str, limits: TenantLimits, count: int, now: float) -> None:
        if math.isinf(limits.submits_per_minute):
            return
        rate = self._rates.get(tenant)
        if rate is None or rate.per_minute != limits.submits_per_minute:
            rate = self._rates[tenant] = Rate.full(limits.submits_per_minute, now)
        if wait_s := rate.take(count, now):
            limit = f"{count} jobs were sent; {limits.submits_per_minute:g} a minute may be"
            raise exceptions.LimitReached(f"submissions of tenant {tenant}", limit, retry_after_s=wait_s)


def _full(tenant: str, limits: TenantLimits, queued: int, count: int, drain_s: float) -> exceptions.LimitReached:
    limit = f"{queued} jobs wait and {count} more were sent; {limits.max_queued:.0f} may wait at a time"
    return exceptions.LimitReached(f"queued jobs of tenant {tenant}", limit, retry_after_s=drain_s)


class LimitsFile:
    """Reads the file again when it has changed; a broken one changes nothing."""

    def __init__(self, path: Path | None, base: TenantLimits, apply: Callable[[Limits], None]) -> None:
        """Raises InvalidConfig."""
        self._path = path
        self._base = base
        self._apply = apply
        self._seen = self._stamp()
        apply(read(path, base) if path else Limits(base))

    def reread(self) -> None:
        """Take over what the file says now, or tell the log why not."""
        if self._path is None:
            return
        self._seen = self._stamp()
        try:
            self._apply(read(self._path, self._base))
        except InvalidConfig as error:
            _log.error("the limits of tenants stay as they were", extra={"error": str(error)})
        else:
            _log.info("the limits of tenants were read again", extra={"file": str(self._path)})

    async def watch(self) -> None:
        """Look now and then whether the file has changed."""
        while self._path:
            await asyncio.sleep(LOOK_INTERVAL_S)
            if self._stamp() != self._seen:
                self.reread()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            about = self._path.stat() if self._path else None
        except OSError:
            return None
        return (about.st_mtime_ns, about.st_size) if about else None
