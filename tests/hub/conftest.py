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
    free = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
    return HubConfig(data_dir=data_dir, heartbeat_interval_s=0.5, lease_s=1.5, **(free | about))  # type: ignore[arg-type]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with serving(config(tmp_path / "hub")) as running:
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
