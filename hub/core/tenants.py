"""What a tenant may be called, and how much it may ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType

Tenant = NewType("Tenant", str)
"""A tenant that may be served: the guard has made sure whose a call is, or the store says whose a job is."""


class Everybody(Enum):
    """In the place of a tenant: the rows of all, for what operators ask and for the hub's own decisions."""

    EVERYBODY = "everybody"


EVERYBODY: Final = Everybody.EVERYBODY
MAX_TENANT_CHARACTERS = 150
_TENANT = re.compile(r"[A-Za-z0-9!\-_.*'()]+")


def tenant_problem(name: str) -> str | None:
    """Why a name cannot be a tenant's, or None. The rules are Grafana Mimir's for X-Scope-OrgID."""
    if len(name) > MAX_TENANT_CHARACTERS:
        return f"has {len(name)} characters; {MAX_TENANT_CHARACTERS} is the limit"
    if name in (".", "..", "__mimir_cluster"):
        return f"is {name!r}, which is reserved; choose another name"
    if not _TENANT.fullmatch(name):
        return f"is {name!r}; use letters, digits and !-_.*'() only"
    return None


@dataclass(frozen=True)
class TenantLimits:
    """What one tenant gets; infinite where nothing limits it."""

    weight: float = 1.0  # its share of the work beside the others that wait
    max_queued: float = math.inf  # jobs that may wait
    max_running: float = math.inf  # jobs that nodes may have at a time
    submits_per_minute: float = math.inf  # as many may also come at once


@dataclass(frozen=True)
class Limits:
    """The limits of all tenants."""

    default: TenantLimits = field(default_factory=TenantLimits)
    named: Mapping[str, TenantLimits] = field(default_factory=dict)

    def of(self, tenant: str) -> TenantLimits:
        return self.named.get(tenant, self.default)

    def held_back(self, running: Mapping[str, int]) -> frozenset[str]:
        """The tenants that have as many jobs on nodes as they may, of those that have any."""
        return frozenset(tenant for tenant, count in running.items() if count >= self.of(tenant).max_running)


@dataclass
class Rate:
    """A bucket into which `per_minute` tokens flow; it holds a minute's worth, and starts full.

    More than it holds is taken when it is full, and owed for: a large batch waits, but is never refused for good.
    """

    per_minute: float
    tokens: float
    at_s: float

    @classmethod
    def full(cls, per_minute: float, now: float) -> Rate:
        return cls(per_minute, per_minute, now)

    def take(self, count: int, now: float) -> float:
        """Take so many tokens. Returns 0, or takes none and returns in how many seconds they will be there."""
        if math.isinf(self.per_minute):
            return 0.0
        self.tokens = min(self.tokens + (now - self.at_s) * self.per_minute / 60, self.per_minute)
        self.at_s = now
        missing = min(count, self.per_minute) - self.tokens
        if missing > 1e-9:
            return missing * 60 / self.per_minute
        self.tokens -= count
        return 0.0
