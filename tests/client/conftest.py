"""A real hub, a node that a test plays, a network that can be cut, and a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from hub.service import Hub, serving
from sonic.client import AsyncSonicClient
from tests.client.proxy import Proxy, proxy_to
from tests.hub import peers
from tests.hub.conftest import config


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with serving(config(tmp_path / "hub")) as running:
        yield running


@pytest.fixture
async def proxy(hub: Hub) -> AsyncIterator[Proxy]:
    async with proxy_to(hub.grpc_address) as running:
        yield running


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[AsyncSonicClient]:
    """Its tenant is "acme"; its calls go through the proxy."""
    async with AsyncSonicClient(proxy.address, "acme", patience_s=60, insecure=True) as made:
        yield made


@pytest.fixture
async def node(hub: Hub) -> AsyncIterator[peers.Agent]:
    """A node that has joined and does only what the test does."""
    async with grpc.aio.insecure_channel(hub.grpc_address) as channel:
        agent = peers.Agent(channel)
        await agent.join()
        yield agent


@contextlib.asynccontextmanager
async def busy(node: peers.Agent) -> AsyncIterator[list[str]]:
    """The node renders whatever it is given; the answer grows with the ids of its jobs."""
    rendered: list[str] = []

    async def work() -> None:
        while True:
            message = await node.call.read()
            if message.WhichOneof("message") == "assignment":
                ref = message.assignment.ref
                rendered.append(ref.job_id)
                await node.upload_video(ref)
                node.report_video(ref)

    task = asyncio.create_task(work())
    try:
        yield rendered
    finally:
        task.cancel()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A portrait and a voice, as far as a hub looks at them."""
    portrait, voice = tmp_path / "face.jpg", tmp_path / "voice.wav"
    portrait.write_bytes(peers.JPEG)
    voice.write_bytes(peers.WAV)
    return portrait, voice
