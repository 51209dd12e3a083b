"""For operators: tenants and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from sonic.v1 import access_pb2
from sonic.v1 import access_service_pb2 as pb

if TYPE_CHECKING:
    from sonic.connection import Connection


class Access:
    """Who may use a fleet. Methods raise exceptions.HubError; seconds are of validity, None is for good.

    A key is answered the one time that it is made. A call whose answer was lost may have made one: it is listed.
    """

    def __init__(self, hub: Connection) -> None:
        self._hub = hub

    async def create_tenant(self, tenant: str, valid_s: float | None = None) -> pb.CreateTenantResponse:
        request = pb.CreateTenantRequest(tenant=tenant, valid_for=_duration(valid_s))
        return await self._hub.call(self._hub.access.CreateTenant, request)

    async def tenants(self) -> list[access_pb2.Tenant]:
        return list((await self._hub.call(self._hub.access.ListTenants, pb.ListTenantsRequest())).tenants)

    async def rotate(self, tenant: str, overlap_s: float = 0.0, valid_s: float | None = None) -> pb.RotateKeysResponse:
        """A new key; the others of the tenant end after `overlap_s`."""
        request = pb.RotateKeysRequest(tenant=tenant, overlap=_duration(overlap_s), valid_for=_duration(valid_s))
        return await self._hub.call(self._hub.access.RotateKeys, request)

    async def suspend(self, tenant: str) -> access_pb2.Tenant:
        return (await self._hub.call(self._hub.access.SuspendTenant, pb.SuspendTenantRequest(tenant=tenant))).tenant

    async def resume(self, tenant: str) -> access_pb2.Tenant:
        return (await self._hub.call(self._hub.access.ResumeTenant, pb.ResumeTenantRequest(tenant=tenant))).tenant

    async def create_key(
        self, role: access_pb2.Role.ValueType, holder: str, tenant: str = "", valid_s: float | None = None
    ) -> access_pb2.NewApiKey:
        request = pb.CreateKeyRequest(role=role, holder=holder, tenant=tenant, valid_for=_duration(valid_s))
        return (await self._hub.call(self._hub.access.CreateKey, request)).key

    async def keys(self) -> list[access_pb2.ApiKey]:
        return list((await self._hub.call(self._hub.access.ListKeys, pb.ListKeysRequest())).keys)

    async def revoke(self, key_id: str) -> access_pb2.ApiKey:
        return (await self._hub.call(self._hub.access.RevokeKey, pb.RevokeKeyRequest(key_id=key_id))).key


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
