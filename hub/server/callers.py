"""Whose a call is, as the guard has made sure before any handler runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc.aio

from hub import exceptions
from hub.core.roles import Caller
from hub.core.tenants import Tenant, tenant_problem
from sonic.parameters import Problem

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]
TENANT_KEY = "sonic-tenant"
CREDENTIAL_KEY = "authorization"
NOBODY = "nobody"


@dataclass(frozen=True)
class Call:
    """A call that has been let in."""

    caller: Caller | None  # None where anyone may call
    tenant: Tenant | None  # whose rows it may touch; None where it is not about those of one tenant
    node_id: str = ""  # of an agent


_CALL: ContextVar[Call | None] = ContextVar("call", default=None)


def enter(call: Call) -> None:
    """Bind the call to the task that carries it out, which is made for it and ends with it."""
    _CALL.set(call)


def tenant_of(_context: Context) -> Tenant:
    """The tenant of the call. Raises NotIdentified."""
    call = _CALL.get()
    if call is None or call.tenant is None:
        raise exceptions.NotIdentified("the call is for no tenant")
    return call.tenant


def who() -> str:
    """Who makes the call that is carried out, for logs."""
    call = _CALL.get()
    if call is None:
        return NOBODY
    return call.caller.who if call.caller else f"node {call.node_id}" if call.node_id else NOBODY


def named_tenant(metadata: Metadata) -> Tenant | None:
    """The tenant that a call's metadata names, or None. Raises NotIdentified, InvalidRequest."""
    names = [value for key, value in metadata if key == TENANT_KEY]
    if not names:
        return None
    if len(names) > 1:
        raise exceptions.NotIdentified(f"the call metadata names {len(names)} tenants under {TENANT_KEY!r}; name one")
    name = names[0] if isinstance(names[0], str) else names[0].decode("ascii", "replace")
    if problem := tenant_problem(name):
        raise exceptions.InvalidRequest([Problem(TENANT_KEY, problem)])
    return Tenant(name)


def bearer(metadata: Metadata) -> str:
    """The credential that a call's metadata carries: an API key or an access token. Raises NotIdentified."""
    values = [value for key, value in metadata if key == CREDENTIAL_KEY]
    if len(values) != 1:
        said = "no credential" if not values else f"{len(values)} credentials"
        raise exceptions.NotIdentified(
            f"the call carries {said}; send one API key or access token as 'authorization: Bearer …', "
            "with the command by api_key_file, token_file or SONIC_API_KEY"
        )
    text = values[0] if isinstance(values[0], str) else values[0].decode("ascii", "replace")
    scheme, _, credential = text.partition(" ")
    credential = credential.strip(" ")
    if scheme.lower() != "bearer" or not credential or not credential.isascii() or " " in credential:
        raise exceptions.NotIdentified("the call's authorization is not of the form 'Bearer CREDENTIAL'")
    return credential
