"""Whose a call is: the one place where credentials will be checked. Until then the caller's word is taken."""

from __future__ import annotations

import re
from typing import Any

import grpc.aio

from hub import exceptions
from sonic.parameters import Problem

Context = grpc.aio.ServicerContext[Any, Any]
TENANT_KEY = "sonic-tenant"
MAX_TENANT_CHARACTERS = 150
_TENANT = re.compile(r"[A-Za-z0-9!\-_.*'()]+")


def tenant_of(context: Context) -> str:
    """The tenant that the call's metadata names. Raises NotIdentified, InvalidRequest."""
    names = [value for key, value in context.invocation_metadata() or () if key == TENANT_KEY]
    if len(names) != 1:
        raise exceptions.NotIdentified(f"the call metadata must name one tenant under {TENANT_KEY!r}")
    name = names[0] if isinstance(names[0], str) else names[0].decode("ascii", "replace")
    if problem := tenant_problem(name):
        raise exceptions.InvalidRequest([Problem(TENANT_KEY, problem)])
    return name


def tenant_problem(name: str) -> str | None:
    """Why a name cannot be a tenant's, or None. The rules are Grafana Mimir's for X-Scope-OrgID."""
    if len(name) > MAX_TENANT_CHARACTERS:
        return f"has {len(name)} characters; {MAX_TENANT_CHARACTERS} is the limit"
    if name in (".", "..", "__mimir_cluster"):
        return f"is {name!r}, which is reserved; choose another name"
    if not _TENANT.fullmatch(name):
        return f"is {name!r}; use letters, digits and !-_.*'() only"
    return None
