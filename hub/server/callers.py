"""Whose a call is: the one place where credentials will be checked. Until then the caller's word is taken."""

from __future__ import annotations

from typing import Any

import grpc.aio

from hub import exceptions
from hub.core.tenants import tenant_problem
from sonic.parameters import Problem

Context = grpc.aio.ServicerContext[Any, Any]
TENANT_KEY = "sonic-tenant"


def tenant_of(context: Context) -> str:
    """The tenant that the call's metadata names. Raises NotIdentified, InvalidRequest."""
    names = [value for key, value in context.invocation_metadata() or () if key == TENANT_KEY]
    if len(names) != 1:
        raise exceptions.NotIdentified(f"the call metadata must name one tenant under {TENANT_KEY!r}")
    name = names[0] if isinstance(names[0], str) else names[0].decode("ascii", "replace")
    if problem := tenant_problem(name):
        raise exceptions.InvalidRequest([Problem(TENANT_KEY, problem)])
    return name
