"""What a tenant may be called."""

from __future__ import annotations

import re

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
