"""What callers may be, and who one of them is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hub.core.tenants import Tenant


class Role(StrEnum):
    """What a caller may do; hub.server.access says it call by call."""

    TENANT = "tenant"  # the jobs and files of one tenant
    OPERATOR = "operator"  # everything but the files of tenants
    READER = "reader"  # sees what operators see, and changes nothing


@dataclass(frozen=True)
class Caller:
    """Who calls, as the hub has made sure."""

    role: Role
    tenant: Tenant | None  # None for operators, readers, and whoever is of no tenant and refused
    who: str  # for logs: the key's id, or the subject that an issuer vouches for; never a secret
    until_s: float  # wall-clock time at which the credential ends; infinite when it does not
