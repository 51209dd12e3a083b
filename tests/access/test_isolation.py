"""Whatever a tenant asks with another's ids, it is as if there were no such thing; and nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from hub.server import access
from hub.service import Hub, serving
from sonic.v1 import admin_service_pb2 as admin_pb
from sonic.v1 import artifacts_pb2, jobs_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from tests.calls import answered
from tests.hub.conftest import config
from tests.hub.peers import JPEG, MP4, WAV, Agent, Caller, digest
from tests.issuer import Issuer

from .conftest import KeyHolder, node_channel, refused
from .test_declared import outcome

CODE = grpc.StatusCode
STATE = b"state of a render" * 50


@dataclass(frozen=True)
class Owned:
    """What acme has: a job that has ended with a video, one that runs and has uploaded a state, and one that waits."""

    done: jobs_pb2.Job
    running: jobs_pb2.Job
    waiting: jobs_pb2.Job
    page_token: str

    @property
    def job_ids(self) -> list[str]:
        return [self.done.job_id, self.running.job_id, self.waiting.job_id]


HASHES = [digest(data) for data in (JPEG, WAV, MP4, STATE)]


class Rival:
    """Tries one call after the other; each returns when nothing of acme's was told."""

    def __init__(self, caller: Caller, owned: Owned) -> None:
        self.jobs, self.metadata, self.owned = caller.jobs, caller.metadata, owned
        self.caller = caller

    async def not_found(self, call: Any) -> None:
        error = await refused(call)
        assert error.code() is CODE.NOT_FOUND
        assert "acme" not in (error.details() or "")

    async def each_job(self, method: Any, request: Any) -> None:
        for job_id in self.owned.job_ids:
            await self.not_found(method(request(job_id=job_id), metadata=self.metadata))

    async def GetJob(self) -> None:
        await self.each_job(self.jobs.GetJob, job_pb.GetJobRequest)

    async def ExplainJob(self) -> None:
        await self.each_job(self.jobs.ExplainJob, job_pb.ExplainJobRequest)

    async def CancelJob(self) -> None:
        await self.each_job(self.jobs.CancelJob, job_pb.CancelJobRequest)

    async def WatchJob(self) -> None:
        await self.each_job(self.jobs.WatchJob, job_pb.WatchJobRequest)

    async def ListJobs(self) -> None:
        for token in ("", self.owned.page_token):
            request = job_pb.ListJobsRequest(page_token=token)
            found = await self.jobs.ListJobs(request, metadata=self.metadata)
            assert not [job for job in found.jobs if job.tenant != "rival"]

    async def GetArtifact(self) -> None:
        for sha256 in HASHES:
            status = (
                await self.jobs.GetArtifact(job_pb.GetArtifactRequest(sha256=sha256), metadata=self.metadata)
            ).status
            assert (status.complete, status.received_bytes, status.HasField("artifact")) == (False, 0, False)

    async def DownloadArtifact(self) -> None:
        for sha256 in HASHES:
            await self.not_found(
                self.jobs.DownloadArtifact(job_pb.DownloadArtifactRequest(sha256=sha256), metadata=self.metadata)
            )

    async def UploadArtifact(self) -> None:
        """A hash alone is not enough to have what it stands for."""
        header = artifacts_pb2.UploadHeader(sha256=digest(MP4), size_bytes=len(MP4))
        for request in (
            [job_pb.UploadArtifactRequest(header=header)],
            [job_pb.UploadArtifactRequest(header=header), job_pb.UploadArtifactRequest(chunk=b"x" * len(MP4))],
        ):
            error = await refused(self.jobs.UploadArtifact(iter(request), metadata=self.metadata))
            assert error.code() in (CODE.FAILED_PRECONDITION, CODE.DATA_LOSS)

    async def SubmitJob(self) -> None:
        error = await refused(self.caller.submit("stolen"))
        assert error.code() is CODE.INVALID_ARGUMENT
        assert "has not been uploaded" in (error.details() or "")

    async def SubmitBatch(self) -> None:
        item = job_pb.SubmitJobRequest(idempotency_key=self.owned.waiting.idempotency_key, spec=self.caller.spec())
        answer = await self.jobs.SubmitBatch(job_pb.SubmitBatchRequest(items=[item]), metadata=self.metadata)
        assert answer.items[0].error.code == CODE.INVALID_ARGUMENT.value[0]

    async def RunJobs(self) -> None:
        item = job_pb.SubmitJobRequest(idempotency_key=self.owned.waiting.idempotency_key, spec=self.caller.spec())
        requests = iter([job_pb.RunJobsRequest(items=[item])])
        (answer,) = [answer async for answer in self.jobs.RunJobs(requests, metadata=self.metadata)]
        assert [one.error.code for one in answer.refused] == [CODE.INVALID_ARGUMENT.value[0]]
        assert not answer.accepted
        assert not answer.ended


async def own(acme: Caller, agent: Agent) -> Owned:
    """Give acme what the rival is after."""
    await agent.join()
    done = await acme.submit_new("done")
    ref = (await agent.hear("assignment")).assignment.ref
    await agent.render(ref)
    await acme.ended(done.job_id)
    running = await acme.submit("running")
    ref = (await agent.hear("assignment")).assignment.ref
    agent.say(started=fleet_pb.AttemptStarted(ref=ref))
    await upload_state(agent, ref)
    waiting = await acme.submit("waiting")
    page = await acme.jobs.ListJobs(job_pb.ListJobsRequest(page_size=1), metadata=acme.metadata)
    return Owned(done, running, waiting, page.next_page_token)


async def upload_state(agent: Agent, ref: jobs_pb2.AttemptRef) -> None:
    header = fleet_pb.VideoHeader(
        node_id=agent.node_id,
        ref=ref,
        upload=artifacts_pb2.UploadHeader(sha256=digest(STATE), size_bytes=len(STATE)),
        checkpoint=True,
    )
    parts = [fleet_pb.UploadVideoRequest(header=header), fleet_pb.UploadVideoRequest(chunk=STATE)]
    await agent.fleet.UploadVideo(iter(parts))
    state = artifacts_pb2.Artifact(sha256=digest(STATE), size_bytes=len(STATE))
    agent.say(checkpoint=fleet_pb.AttemptCheckpoint(ref=ref, state=state, done=1, total=2))


async def everything_of(acme: Caller, owned: Owned) -> list[bytes]:
    jobs = [await acme.get(job_id) for job_id in owned.job_ids]
    for job in jobs:
        job.ClearField("forecast")
        job.ClearField("eta_seconds")
        job.ClearField("progress")
    artifacts = []
    for sha256 in HASHES[:3]:
        request = job_pb.DownloadArtifactRequest(sha256=sha256)
        chunks = [one.chunk async for one in acme.jobs.DownloadArtifact(request, metadata=acme.metadata)]
        artifacts.append(b"".join(chunks))
    return [job.SerializeToString(deterministic=True) for job in jobs] + artifacts


@pytest.fixture
async def open_hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with serving(config(tmp_path / "open", insecure=True)) as one:
        yield one


def test_every_call_about_a_tenants_rows_is_tried() -> None:
    about = {name for of in access.RPCS.values() for name, rule in of.items() if rule.for_tenant}
    tried = {name for name in vars(Rival) if name[0].isupper()}
    assert tried == about


async def attacked(acme: Caller, rival: Caller, agent: Agent) -> None:
    owned = await own(acme, agent)
    before = await everything_of(acme, owned)
    trying = Rival(rival, owned)
    for name in [name for name in vars(Rival) if name[0].isupper()]:
        attempt: Callable[[], Awaitable[None]] = getattr(trying, name)
        async with asyncio.timeout(60):
            await attempt()
    assert await everything_of(acme, owned) == before
    mine = await rival.submit_new(owned.waiting.idempotency_key)
    assert mine.job_id not in owned.job_ids
    assert mine.tenant == "rival"
    await trying.ListJobs()


async def test_a_tenant_that_is_taken_at_its_word_sees_nothing_of_another(open_hub: Hub) -> None:
    async with grpc.aio.insecure_channel(open_hub.grpc_address) as channel:
        await attacked(Caller(channel, "acme"), Caller(channel, "rival"), Agent(channel))


async def test_not_even_its_owner_downloads_the_state_of_a_render(open_hub: Hub) -> None:
    async with grpc.aio.insecure_channel(open_hub.grpc_address) as channel:
        acme = Caller(channel, "acme")
        await own(acme, Agent(channel))
        request = job_pb.DownloadArtifactRequest(sha256=digest(STATE))
        assert (await refused(acme.jobs.DownloadArtifact(request, metadata=acme.metadata))).code() is CODE.NOT_FOUND


async def test_a_node_reaches_the_inputs_of_its_own_attempts_alone(open_hub: Hub) -> None:
    async with grpc.aio.insecure_channel(open_hub.grpc_address) as channel:
        acme, other = Caller(channel, "acme"), Agent(channel, "n2", "us")
        owned = await own(acme, Agent(channel))
        ref = jobs_pb2.AttemptRef(job_id=owned.running.job_id, attempt=1)
        fleet, node = other.fleet, {"node_id": "n2", "ref": ref}
        upload = artifacts_pb2.UploadHeader(sha256=digest(MP4), size_bytes=len(MP4))
        header = fleet_pb.UploadVideoRequest(header=fleet_pb.VideoHeader(upload=upload, **node))
        for sha256 in HASHES:
            calls = [
                fleet.FetchInput(fleet_pb.FetchInputRequest(sha256=sha256, **node)),
                fleet.GetVideo(fleet_pb.GetVideoRequest(sha256=sha256, **node)),
                fleet.PlaceVideo(fleet_pb.PlaceVideoRequest(sha256=sha256, size_bytes=1, **node)),
                fleet.UploadVideo(iter([header])),
            ]
            for call in calls:
                assert (await refused(call)).code() is CODE.NOT_FOUND


async def test_a_tenant_with_a_key_sees_nothing_of_another(
    hub: Hub, acme: KeyHolder, rival: KeyHolder, tmp_path: Path
) -> None:
    async with node_channel(hub, tmp_path / "hub", "n1") as channel:
        await attacked(acme, rival, Agent(channel))


async def test_a_tenant_with_a_token_sees_nothing_of_another(
    hub: Hub, acme: KeyHolder, rival: KeyHolder, issuer: Issuer, tmp_path: Path
) -> None:
    """Nor does one whose token says more than it may: a tenant in another claim, or in the call."""
    by_token = KeyHolder(acme.channel, issuer.token(tenant="rival", tenants=["acme"], sub="acme"))
    async with node_channel(hub, tmp_path / "hub", "n1") as channel:
        await attacked(acme, by_token, Agent(channel))
    for tenant in ("acme", "nobody", ["acme"], {"acme": 1}, None, "", "a/b", "x" * 5000):
        liar = KeyHolder(acme.channel, issuer.token(tenant=tenant), "acme" if tenant != "acme" else "rival")
        error = await refused(liar.jobs.ListJobs(job_pb.ListJobsRequest(), metadata=liar.metadata))
        assert error.code() in (CODE.PERMISSION_DENIED, CODE.UNAUTHENTICATED)


async def test_naming_another_tenant_is_refused_by_every_call(
    hub: Hub, acme: KeyHolder, rival: KeyHolder, tmp_path: Path
) -> None:
    liar = KeyHolder(rival.channel, rival.credential, "acme")
    stream = {"UploadArtifact": (True, False), "DownloadArtifact": (False, True), "WatchJob": (False, True)}
    stream["RunJobs"] = (True, True)
    for name, rule in access.RPCS["sonic.v1.JobService"].items():
        assert rule.for_tenant
        streams = stream.get(name, (False, False))
        assert await outcome(rival.channel, f"/sonic.v1.JobService/{name}", streams, liar.metadata) is (
            CODE.PERMISSION_DENIED
        )


async def test_nobody_downloads_a_tenants_files_but_the_tenant(
    hub: Hub, operator: KeyHolder, acme: KeyHolder, tmp_path: Path
) -> None:
    await acme.upload(JPEG)
    acting = KeyHolder(operator.channel, operator.credential, "acme")
    request = job_pb.DownloadArtifactRequest(sha256=digest(JPEG))
    call = acting.jobs.DownloadArtifact(request, metadata=acting.metadata)
    assert (await refused(call)).code() is CODE.PERMISSION_DENIED
    found = [one.chunk async for one in acme.jobs.DownloadArtifact(request, metadata=acme.metadata)]
    assert b"".join(found) == JPEG


async def test_a_nodes_certificate_is_no_callers_credential_and_the_other_way_round(
    hub: Hub, operator: KeyHolder, tmp_path: Path
) -> None:
    async with node_channel(hub, tmp_path / "hub", "n1") as channel:
        caller = KeyHolder(channel, operator.credential)
        for call in (
            caller.jobs.ListJobs(job_pb.ListJobsRequest(), metadata=caller.metadata),
            caller.admin.ListNodes(admin_pb.ListNodesRequest(), metadata=caller.metadata),
        ):
            assert (await refused(call)).code() is CODE.UNIMPLEMENTED
    agent = Agent(operator.channel)
    hello = fleet_pb.SessionRequest(hello=fleet_pb.Hello(node_id="n1", region="eu"))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await answered(lambda: anext(aiter(agent.fleet.Session(iter([hello]), metadata=operator.metadata))))
    assert refusal.value.code() is CODE.UNIMPLEMENTED
