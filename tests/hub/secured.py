"""A real hub with TLS, the operator's line to it, and boxes that enrol as agents do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from agent.config import AgentConfig
from agent.enrolment import identity_of
from agent.identity import Identity
from hub.service import Hub, serving
from sonic.client import AsyncSonicClient
from tests.hub.conftest import config
from tests.hub.peers import Agent, Caller


@dataclass
class Secured:
    hub: Hub
    folder: Path
    operator: AsyncSonicClient

    @property
    def ca_file(self) -> Path:
        return self.folder / "hub" / "authority" / "authority.pem"

    async def token(self, region: str = "eu", **about: Any) -> str:
        return (await self.operator.create_join_token(region, **about)).text

    def box(self, token: str, node_id: str = "n1", region: str = "eu", **about: Any) -> AgentConfig:
        """Settings of a box of its own, with that token."""
        folder = self.folder / node_id
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(token + "\n")
        own = {"enrol_at": self.hub.grpc_address, "hub": self.hub.agent_address, "data_dir": folder / "data"}
        return AgentConfig(**own | {"node_id": node_id, "region": region, "join_token_file": folder / "token"} | about)

    async def enrolled(self, node_id: str = "n1", region: str = "eu") -> Identity:
        identity = await identity_of(self.box(await self.token(region), node_id, region))
        assert identity
        return identity

    @contextlib.asynccontextmanager
    async def agent(self, identity: Identity, node_id: str = "n1", region: str = "eu") -> AsyncIterator[Agent]:
        """One that says that it is this node."""
        async with grpc.aio.secure_channel(self.hub.agent_address, identity.credentials) as channel:
            yield Agent(channel, node_id, region)

    @contextlib.asynccontextmanager
    async def caller(self, tenant: str = "acme") -> AsyncIterator[Caller]:
        roots = grpc.ssl_channel_credentials(self.ca_file.read_bytes())
        key = (await self.operator.access.create_tenant(tenant)).key
        async with grpc.aio.secure_channel(self.hub.grpc_address, roots) as channel:
            caller = Caller(channel)
            caller.metadata = (("authorization", f"Bearer {key.secret_text}"),)
            yield caller


@contextlib.asynccontextmanager
async def secured(folder: Path, **about: Any) -> AsyncIterator[Secured]:
    settings = config(folder / "hub", **{"insecure": False, "agent_listen": "127.0.0.1:0"} | about)
    ca_file = settings.resolved_authority_dir / "authority.pem"
    key = settings.data_dir / "operator.key"
    async with (
        serving(settings) as hub,
        AsyncSonicClient(hub.grpc_address, patience_s=30, ca_file=ca_file, api_key_file=key) as operator,
    ):
        yield Secured(hub, folder, operator)
