"""Whoever calls the wrong port is told what answers there."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agent.config import InvalidConfig
from agent.enrolment import identity_of
from agent.identity import Identity
from agent.session import open_line
from hub.service import serving
from hub.trust.authority import Authority, open_authority
from sonic.client import AsyncSonicClient
from sonic.exceptions import HubUnreachable
from sonic.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from tests.hub.conftest import config
from tests.hub.secured import Secured, secured


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Secured]:
    async with secured(tmp_path) as running:
        yield running


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
    writer.close()


async def ssh(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")


@contextlib.asynccontextmanager
async def answering(talk: object, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)  # type: ignore[arg-type]
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def https_of(authority: Authority, folder: Path) -> ssl.SSLContext:
    key, chain = authority.server_certificate(["127.0.0.1"], timedelta(days=1))
    (folder / "key").write_bytes(key)
    (folder / "chain").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain", folder / "key")
    return context


async def told_to_callers(at: Secured, address: str, **about: object) -> str:
    trusted = about or {"ca_file": at.ca_file, "api_key_file": at.folder / "hub" / "operator.key"}
    async with AsyncSonicClient(address, "acme", patience_s=1, **trusted) as client:  # type: ignore[arg-type]
        with pytest.raises(HubUnreachable) as refused:
            await client.nodes()
    return str(refused.value)


async def told_to_agents(identity: Identity, address: str) -> str:
    async with open_line(address, identity.credentials) as line:
        stub = fleet_service_pb2_grpc.FleetServiceStub(line)  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetVideo(fleet_service_pb2.GetVideoRequest(node_id="n1"), timeout=5)
        return await line.trouble(refused.value)


async def told_to_boxes(at: Secured, address: str) -> str:
    with pytest.raises(InvalidConfig) as refused:
        await identity_of(at.box(await at.token(), "new", enrol_at=address))
    return str(refused.value)


async def test_what_speaks_no_tls_is_told(at: Secured) -> None:
    node = await at.enrolled("n1")
    async with (
        answering(http) as web,
        answering(ssh) as shell,
        serving(config(at.folder / "open")) as hub,
    ):
        said = {
            web: "speaks HTTP without TLS: it is no hub",
            shell: "speaks neither TLS nor gRPC: it is no hub",
            hub.grpc_address: "speaks gRPC without TLS, as a hub that was started with --insecure",
        }
        for address, what in said.items():
            assert what in await told_to_callers(at, address)
            assert what in await told_to_agents(node, address)
            assert what in await told_to_boxes(at, address)
        assert "speaks no gRPC: it is no hub" in await told_to_callers(at, web, insecure=True)


async def test_another_tls_server_is_told(at: Secured) -> None:
    node = await at.enrolled("n1")
    ours, stranger = open_authority(at.folder / "hub" / "authority"), open_authority(at.folder / "stranger")
    async with answering(http, https_of(ours, at.folder)) as web:
        assert "speaks TLS and no gRPC: it is no hub" in await told_to_callers(at, web)
        assert "speaks TLS and no gRPC: it is no hub" in await told_to_agents(node, web)
    async with answering(http, https_of(stranger, at.folder)) as web:
        assert (await told_to_callers(at, web)).endswith("or is it another server?")
        assert (await told_to_agents(node, web)).endswith("is it another server, or another hub?")
        assert "is not the hub that has made the join token" in await told_to_boxes(at, web)


async def test_the_other_port_of_the_hub_is_told(at: Secured) -> None:
    node = await at.enrolled("n1")
    assert "wants the certificate of a node" in await told_to_callers(at, at.hub.agent_address)
    assert "serves no agents" in await told_to_agents(node, at.hub.grpc_address)
    assert "another port of a hub" in await told_to_boxes(at, at.hub.agent_address)
