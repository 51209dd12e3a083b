"""A hub that asks for credentials, and callers who have some."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.duration_pb2 import Duration

from hub.service import Hub, serving
from hub.trust.authority import NodeName, open_authority
from sonic.v1 import access_pb2, access_service_pb2_grpc
from sonic.v1 import access_service_pb2 as pb
from tests.hub.conftest import config
from tests.hub.peers import Caller
from tests.issuer import AUDIENCE, Issuer, running


class KeyHolder(Caller):
    """Calls with a credential, and with nothing else unless a tenant is named."""

    def __init__(self, channel: grpc.aio.Channel, credential: str, tenant: str = "") -> None:
        super().__init__(channel)
        self.channel, self.credential = channel, credential
        self.access = access_service_pb2_grpc.AccessServiceStub(channel)
        self.metadata: Any = (("authorization", f"Bearer {credential}"),)
        if tenant:
            self.metadata += (("sonic-tenant", tenant),)

    async def create_tenant(self, name: str) -> access_pb2.NewApiKey:
        return (await self.access.CreateTenant(pb.CreateTenantRequest(tenant=name), metadata=self.metadata)).key

    async def create_key(self, role: Any, holder: str, tenant: str = "", valid_s: float = 0) -> access_pb2.NewApiKey:
        valid_for = Duration(seconds=int(valid_s), nanos=int(valid_s % 1 * 1e9)) if valid_s else None
        request = pb.CreateKeyRequest(role=role, holder=holder, tenant=tenant, valid_for=valid_for)
        return (await self.access.CreateKey(request, metadata=self.metadata)).key

    async def rotate(self, tenant: str, overlap_s: int = 0) -> access_pb2.NewApiKey:
        request = pb.RotateKeysRequest(tenant=tenant, overlap=Duration(seconds=overlap_s))
        return (await self.access.RotateKeys(request, metadata=self.metadata)).key

    async def revoke(self, key_id: str) -> access_pb2.ApiKey:
        return (await self.access.RevokeKey(pb.RevokeKeyRequest(key_id=key_id), metadata=self.metadata)).key

    async def suspend(self, tenant: str) -> None:
        await self.access.SuspendTenant(pb.SuspendTenantRequest(tenant=tenant), metadata=self.metadata)

    async def resume(self, tenant: str) -> None:
        await self.access.ResumeTenant(pb.ResumeTenantRequest(tenant=tenant), metadata=self.metadata)

    async def tenants(self) -> list[access_pb2.Tenant]:
        return list((await self.access.ListTenants(pb.ListTenantsRequest(), metadata=self.metadata)).tenants)


def channel_to(hub: Hub, data_dir: Path) -> grpc.aio.Channel:
    trusted = grpc.ssl_channel_credentials((data_dir / "authority" / "authority.pem").read_bytes())
    return grpc.aio.secure_channel(hub.grpc_address, trusted)


def node_channel(hub: Hub, data_dir: Path, node_id: str, region: str = "eu") -> grpc.aio.Channel:
    """As an agent with a certificate of the hub's authority."""
    authority = open_authority(data_dir / "authority")
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.node_certificate(key.public_key(), [NodeName(region, node_id)], timedelta(hours=1))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return grpc.aio.secure_channel(hub.agent_address, grpc.ssl_channel_credentials(authority.pem, pem, issued.pem))


def client_settings(tmp_path: Path) -> dict[str, Any]:
    """How a client reaches the hub."""
    return {"ca_file": tmp_path / "hub" / "authority" / "authority.pem"}


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """How the hub refuses."""
    try:
        answered = [one async for one in call] if hasattr(call, "__aiter__") else await call
    except grpc.aio.AioRpcError as error:
        return error
    pytest.fail(f"answered with {answered!r}")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running() as one:
        one.add("one")
        yield one


@pytest.fixture
async def hub(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Hub]:
    about: dict[str, Any] = {"insecure": False, "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
    async with serving(config(tmp_path / "hub", oidc_leeway_s=0.0, **about)) as one:
        yield one


@pytest.fixture
async def channel(hub: Hub, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(hub, tmp_path / "hub") as one:
        yield one


@pytest.fixture
def operator(channel: grpc.aio.Channel, tmp_path: Path) -> KeyHolder:
    return KeyHolder(channel, (tmp_path / "hub" / "operator.key").read_text().strip())


@pytest.fixture
async def acme(channel: grpc.aio.Channel, operator: KeyHolder) -> KeyHolder:
    return KeyHolder(channel, (await operator.create_tenant("acme")).secret_text)


@pytest.fixture
async def rival(channel: grpc.aio.Channel, operator: KeyHolder) -> KeyHolder:
    return KeyHolder(channel, (await operator.create_tenant("rival")).secret_text)
