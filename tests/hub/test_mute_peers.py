"""Whoever reads nothing of what the hub says can hold up neither the hub nor anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from sonic.v1 import access_service_pb2 as access_pb
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc, jobs_pb2, nodes_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as pb

from .peers import digest
from .secured import secured

LARGE = b"\xff\xd8\xff" + bytes(16 << 20)  # more than a connection takes ahead


async def parts() -> AsyncIterator[pb.UploadArtifactRequest]:
    header = artifacts_pb2.UploadHeader(sha256=digest(LARGE), size_bytes=len(LARGE))
    yield pb.UploadArtifactRequest(header=header)
    for at in range(0, len(LARGE), 1 << 20):
        yield pb.UploadArtifactRequest(chunk=LARGE[at : at + (1 << 20)])


async def test_a_caller_who_reads_nothing_is_cut_off_and_so_are_the_others_of_its_tenant(tmp_path: Path) -> None:
    async with secured(tmp_path) as fleet, fleet.caller("evil") as mute:
        await mute.jobs.UploadArtifact(parts(), metadata=mute.metadata)
        download = mute.jobs.DownloadArtifact(pb.DownloadArtifactRequest(sha256=digest(LARGE)), metadata=mute.metadata)
        await download.read()
        job = await mute.submit_new("k1")
        watch = mute.jobs.WatchJob(pb.WatchJobRequest(job_id=job.job_id), metadata=mute.metadata)
        await watch.read()
        suspend = access_pb.SuspendTenantRequest(tenant="evil")
        hub = fleet.operator._hub
        await hub.access.SuspendTenant(suspend, metadata=hub.metadata, timeout=60)
        assert await asyncio.wait_for(watch.code(), 60) in (
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.CANCELLED,
        )
        download.cancel()


async def test_a_revoked_node_that_reads_nothing_has_no_session_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.sessions.ENDING_S", 0.5)
    async with secured(tmp_path) as fleet:
        identity = await fleet.enrolled()
        async with grpc.aio.secure_channel(fleet.hub.agent_address, identity.credentials) as channel:
            slot = nodes_pb2.Slot(index=0, state=nodes_pb2.SLOT_STATE_READY)
            session = fleet_service_pb2_grpc.FleetServiceStub(channel).Session()
            await session.write(fleet_pb.SessionRequest(hello=fleet_pb.Hello(node_id="n1", region="eu", slots=[slot])))
            await session.read()
            long = jobs_pb2.AttemptRef(job_id="x" * 100_000, attempt=1)  # it comes back, in a cancel
            for _ in range(300):
                await session.write(fleet_pb.SessionRequest(started=fleet_pb.AttemptStarted(ref=long)))
            held = fleet.hub.sessions.get("n1")
            assert held
            async with asyncio.timeout(60):
                while not held.outgoing.qsize():
                    await asyncio.sleep(0.05)
                await fleet.operator.revoke_node("n1")
                while fleet.hub.sessions.get("n1"):
                    await asyncio.sleep(0.05)
            session.cancel()
