"""A client that knows several hubs goes on with the next when one is gone, and stays with the one that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.service import serving
from sonic.addresses import addresses, is_address
from sonic.client import AsyncSonicClient
from tests.hub.conftest import config
from tests.processes import free_port


async def test_a_call_reaches_the_hub_that_is_there(tmp_path: Path) -> None:
    gone = f"127.0.0.1:{free_port()}"
    async with (
        serving(config(tmp_path / "one")) as hub,
        AsyncSonicClient(f"{gone}, {hub.grpc_address}", patience_s=60, insecure=True) as client,
    ):
        for _ in range(2):
            assert await client.nodes() == []
            assert client._hub._line._at == 1


async def test_a_client_follows_when_its_hub_goes(tmp_path: Path) -> None:
    async with serving(config(tmp_path / "two")) as second:
        async with serving(config(tmp_path / "one")) as first:
            client = AsyncSonicClient(f"{first.grpc_address},{second.grpc_address}", patience_s=60, insecure=True)
            assert await client.nodes() == []
        assert await client.nodes() == []
        await client.close()


@pytest.mark.parametrize("text", ["here", "here:", ":1", "here:0", "here:70000", "a:1,b"])
def test_an_address_has_a_host_and_a_port(text: str) -> None:
    assert not all(map(is_address, addresses(text)))
    assert all(map(is_address, addresses("a:1, [::1]:2,b.example:65535")))
