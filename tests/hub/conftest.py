"""A real hub on free ports, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from hub.config import HubConfig
from hub.service import Hub, serving

from .peers import Agent, Caller


def config(data_dir: Path, **about: object) -> HubConfig:
    """Nodes that tests play may be silent for as long as a test takes."""
    own = {
        "listen": "127.0.0.1:0",
        "agent_listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "insecure": True,
        "heartbeat_interval_s": 30.0,
        "lease_s": 120.0,
    }
    return HubConfig(data_dir=data_dir, **(own | about))  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hub.db'}"
    url: str = request.getfixturevalue("cluster").database()
    return url


@pytest.fixture
async def hub(tmp_path: Path, database_url: str) -> AsyncIterator[Hub]:
    async with serving(config(tmp_path / "hub", database_url=database_url)) as running:
        yield running


@pytest.fixture
async def channel(hub: Hub) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(hub.grpc_address) as opened:
        yield opened


@pytest.fixture
def caller(channel: grpc.aio.Channel) -> Caller:
    return Caller(channel)


@pytest.fixture
def agent(channel: grpc.aio.Channel) -> Agent:
    return Agent(channel)
