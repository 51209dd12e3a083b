"""AccessService: who is let in, and who is kept out. The contract is in proto/sonic/v1/access_service.proto."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from hub import exceptions, wire
from hub.core.roles import Role
from hub.core.tenants import tenant_problem
from hub.server import audit, credentials
from hub.server.callers import Context
from hub.server.gate import Gate
from hub.server.job_service import reading
from hub.store import tenants
from hub.store.database import changing
from sonic.parameters import Problem
from sonic.v1 import access_pb2, access_service_pb2_grpc
from sonic.v1 import access_service_pb2 as pb

T = TypeVar("T")
MAX_HOLDER_CHARACTERS = 64
LONGEST_DAYS = 3660
_ROLES = {
    access_pb2.ROLE_TENANT: Role.TENANT,
    access_pb2.ROLE_OPERATOR: Role.OPERATOR,
    access_pb2.ROLE_READER: Role.READER,
}
_NUMBERS = {role: number for number, role in _ROLES.items()}


@dataclass(frozen=True)
class _Wanted:
    """A key to be made."""

    role: Role
    tenant: str | None
    holder: str
    expires_at_s: float | None


class AccessService(access_service_pb2_grpc.AccessServiceServicer):
    """What it changes holds from the answer on, at this hub."""

    def __init__(self, database: sa.Engine, gate: Gate) -> None:
        self._database = database
        self._gate = gate

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Context) -> pb.CreateTenantResponse:
        if problem := tenant_problem(request.tenant):
            raise exceptions.InvalidRequest([Problem("tenant", problem)])
        wanted = _Wanted(Role.TENANT, request.tenant, request.tenant[:MAX_HOLDER_CHARACTERS], _expiry(request))

        def write(connection: sa.Connection) -> access_pb2.NewApiKey:
            if not tenants.create(connection, request.tenant, time.time()):
                another = f"for another key: sonic tenants rotate {request.tenant}"
                raise exceptions.NameTaken(f"there is a tenant {request.tenant!r} already; {another}")
            return _make(connection, wanted)

        made = await self._change(write)
        _tell(context, made.key)
        return pb.CreateTenantResponse(tenant=await self._tenant(request.tenant), key=made)

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        return pb.ListTenantsResponse(tenants=await self._tenants())

    async def RotateKeys(self, request: pb.RotateKeysRequest, context: Context) -> pb.RotateKeysResponse:
        overlap_s = _seconds(request, "overlap", 0.0)
        tenant = await self._tenant(request.tenant)
        wanted = _Wanted(Role.TENANT, tenant.tenant, tenant.tenant[:MAX_HOLDER_CHARACTERS], _expiry(request))

        def write(connection: sa.Connection) -> access_pb2.NewApiKey:
            tenants.end_keys(connection, tenant.tenant, time.time() + overlap_s)
            return _make(connection, wanted)

        made = await self._change(write)
        _tell(context, made.key)
        return pb.RotateKeysResponse(tenant=await self._tenant(tenant.tenant), key=made)

    async def SuspendTenant(self, request: pb.SuspendTenantRequest, context: Context) -> pb.SuspendTenantResponse:
        return pb.SuspendTenantResponse(tenant=await self._set_suspended(request.tenant, time.time()))

    async def ResumeTenant(self, request: pb.ResumeTenantRequest, context: Context) -> pb.ResumeTenantResponse:
        return pb.ResumeTenantResponse(tenant=await self._set_suspended(request.tenant, None))

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        if problems := _key_problems(request):
            raise exceptions.InvalidRequest(problems)
        role = _ROLES[request.role]
        tenant = (await self._tenant(request.tenant)).tenant if role is Role.TENANT else None
        wanted = _Wanted(role, tenant, request.holder, _expiry(request))
        made = await self._change(lambda connection: _make(connection, wanted))
        _tell(context, made.key)
        return pb.CreateKeyResponse(key=made)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        return pb.ListKeysResponse(keys=await self._keys())

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        def write(connection: sa.Connection) -> None:
            if tenants.operators_keys(connection, time.time()) == {request.key_id}:
                raise exceptions.LastOperator
            tenants.revoke_key(connection, request.key_id, time.time())

        await self._change(write)
        found = [key for key in await self._keys() if key.key_id == request.key_id]
        if not found:
            raise exceptions.NotFound(f"there is no key {request.key_id[:80]!r}; sonic keys list has their ids")
        return pb.RevokeKeyResponse(key=found[0])

    async def _set_suspended(self, name: str, at_s: float | None) -> access_pb2.Tenant:
        await self._tenant(name)
        await self._change(lambda connection: tenants.set_suspended(connection, name, at_s))
        return await self._tenant(name)

    async def _tenant(self, name: str) -> access_pb2.Tenant:
        found = [tenant for tenant in await self._tenants() if tenant.tenant == name]
        if not found:
            raise exceptions.NotFound(f"there is no tenant {name[:80]!r}; sonic tenants list has their names")
        return found[0]

    async def _tenants(self) -> list[access_pb2.Tenant]:
        def read(connection: sa.Connection) -> list[access_pb2.Tenant]:
            keys = [_shown(row) for row in tenants.keys(connection)]
            return [
                access_pb2.Tenant(
                    tenant=row.tenant,
                    created_at=wire.timestamp(row.created_at_s),
                    suspended_at=wire.timestamp(row.suspended_at_s),
                    keys=[key for key in keys if key.tenant == row.tenant],
                )
                for row in tenants.all_of(connection)
            ]

        return await reading(self._database, read)

    async def _keys(self) -> list[access_pb2.ApiKey]:
        return await reading(self._database, lambda connection: [_shown(row) for row in tenants.keys(connection)])

    async def _change(self, work: Callable[[sa.Connection], T]) -> T:
        """Carry out a change; when it is answered, it holds for every call and every stream of this hub."""

        def transact() -> T:
            with changing(self._database) as connection:
                return work(connection)

        done = await asyncio.to_thread(transact)
        await self._gate.look_again()
        return done


def first_key(connection: sa.Connection) -> str | None:
    """Make a key of an operator where none holds, so that somebody can begin; None where one does."""
    if tenants.operators_keys(connection, time.time()):
        return None
    return _make(connection, _Wanted(Role.OPERATOR, None, "first operator", None)).secret_text


def _make(connection: sa.Connection, wanted: _Wanted) -> access_pb2.NewApiKey:
    key = credentials.new_key()
    now_s = time.time()
    new = tenants.NewKey(key.key_id, key.digest, wanted.role, wanted.tenant, wanted.holder, wanted.expires_at_s)
    tenants.add_key(connection, new, now_s)
    about = access_pb2.ApiKey(
        key_id=key.key_id,
        role=_NUMBERS[wanted.role],
        tenant=wanted.tenant or "",
        holder=wanted.holder,
        created_at=wire.timestamp(now_s),
        expires_at=wire.timestamp(wanted.expires_at_s),
    )
    return access_pb2.NewApiKey(key=about, secret_text=key.text)


def _shown(row: sa.Row[Any]) -> access_pb2.ApiKey:
    return access_pb2.ApiKey(
        key_id=row.key_id,
        role=_NUMBERS[Role(row.role)],
        tenant=row.tenant or "",
        holder=row.holder,
        created_at=wire.timestamp(row.created_at_s),
        expires_at=wire.timestamp(row.expires_at_s),
        revoked_at=wire.timestamp(row.revoked_at_s),
        last_used_at=wire.timestamp(row.last_used_at_s),
    )


def _tell(context: Context, key: access_pb2.ApiKey) -> None:
    role = _ROLES[key.role]
    audit.record(context, "key.make", key.key_id, role=role, tenant=key.tenant, holder=key.holder)


def _key_problems(request: pb.CreateKeyRequest) -> list[Problem]:
    problems: list[Problem] = []
    if request.role not in _ROLES:
        problems.append(Problem("role", f"is {request.role}; choose one of Role"))
    if request.role == access_pb2.ROLE_TENANT and not request.tenant:
        problems.append(Problem("tenant", "is missing; a key of the role tenant is one tenant's"))
    if request.role != access_pb2.ROLE_TENANT and request.tenant:
        problems.append(
            Problem("tenant", f"is {request.tenant[:80]!r}, and only a key of the role tenant is a tenant's")
        )
    if not 1 <= len(request.holder) <= MAX_HOLDER_CHARACTERS or not request.holder.isprintable():
        limit = f"is {request.holder[:80]!r}; 1 to {MAX_HOLDER_CHARACTERS} printable characters are wanted"
        problems.append(Problem("holder", limit))
    return problems


def _expiry(request: Any) -> float | None:
    """When a key ends that begins now. Raises InvalidRequest."""
    if not request.HasField("valid_for"):
        return None
    valid_s = _seconds(request, "valid_for", math.inf)
    if not valid_s:
        raise exceptions.InvalidRequest([Problem("valid_for", "is 0 s; a key that holds for a while is wanted")])
    return time.time() + valid_s


def _seconds(request: Any, name: str, absent: float) -> float:
    if not request.HasField(name):
        return absent
    message = getattr(request, name)
    seconds = float(message.seconds + message.nanos / 1e9)
    if not 0 <= seconds <= LONGEST_DAYS * 86_400:
        limit = f"is {seconds:g} s; 0 s to {LONGEST_DAYS} days are wanted"
        raise exceptions.InvalidRequest([Problem(name, limit)])
    return seconds
