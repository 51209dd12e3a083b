"""Files arrive whole or not at all, and a cut costs only what was on the way."""

from __future__ import annotations

import asyncio
import random

import grpc.aio
import pytest

from sonic import exceptions
from sonic.client import AsyncSonicClient
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import job_service_pb2_grpc, jobs_pb2
from tests.hub import peers

MIB = 1 << 20
BIG = peers.WAV + random.Random(7).randbytes(12 * MIB)


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big.wav"
    path.write_bytes(BIG)
    return path


async def test_an_upload_goes_on_where_it_was_cut(client, proxy, big) -> None:
    proxy.cut_after_sent = 8 * MIB
    artifact = await client.upload(big)
    assert artifact.sha256 == peers.digest(BIG)
    assert artifact.size_bytes == len(BIG)
    assert proxy.cuts == 1
    assert proxy.sent_bytes < len(BIG) + 6 * MIB, "it was sent again from the start"


async def test_what_the_hub_has_is_not_sent_again(client, proxy, big) -> None:
    await client.upload(big)
    sent = proxy.sent_bytes
    await client.upload(big)
    assert proxy.sent_bytes - sent < 10_000


async def test_two_uploads_of_the_same_file_at_a_time_both_end_well(client, big) -> None:
    first, second = await asyncio.gather(client.upload(big), client.upload(big))
    assert first.sha256 == second.sha256 == peers.digest(BIG)


async def succeeded_job(client, node, files) -> jobs_pb2.Job:
    job = await client.submit(*files)
    ref = (await node.hear("assignment")).assignment.ref
    await node.upload_video(ref, BIG[: 3 * MIB])
    node.report_video(ref, BIG[: 3 * MIB])
    return await client.wait(job.job_id)


async def test_a_download_goes_on_where_it_was_cut(client, proxy, node, files, tmp_path) -> None:
    job = await succeeded_job(client, node, files)
    before = proxy.received_bytes
    proxy.cut_after_received = before + 2 * MIB
    video = await client.download(job, tmp_path / "v" / "video.mp4")
    assert video.read_bytes() == BIG[: 3 * MIB]
    assert proxy.cuts == 1
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


async def test_a_later_run_goes_on_with_what_an_earlier_one_got(client, proxy, node, files, tmp_path) -> None:
    job = await succeeded_job(client, node, files)
    destination = tmp_path / "video.mp4"
    async with AsyncSonicClient(proxy.address, "acme", patience_s=0.01, insecure=True) as hasty:
        proxy.cut_after_received = proxy.received_bytes + 2 * MIB
        with pytest.raises(exceptions.HubUnreachable):
            await hasty.download(job, destination)
    assert not destination.exists()
    (part,) = tmp_path.glob(".video.mp4.*.part")
    kept = part.stat().st_size
    assert kept
    before = proxy.received_bytes
    await client.download(job, destination)
    assert destination.read_bytes() == BIG[: 3 * MIB]
    assert proxy.received_bytes - before < 3 * MIB - kept + 100_000


class LyingHub(job_service_pb2_grpc.JobServiceServicer):
    async def DownloadArtifact(self, request, context):
        yield pb.DownloadArtifactResponse(chunk=b"something else")


async def test_bytes_that_are_not_those_of_the_hash_never_become_a_video(tmp_path) -> None:
    server = grpc.aio.server()
    job_service_pb2_grpc.add_JobServiceServicer_to_server(LyingHub(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    job = jobs_pb2.Job(state=jobs_pb2.JOB_STATE_SUCCEEDED)
    job.video.sha256 = peers.digest(b"a video")
    async with AsyncSonicClient(f"127.0.0.1:{port}", insecure=True) as client:
        with pytest.raises(exceptions.BytesDiffer, match="try again"):
            await client.download(job, tmp_path / "out" / "video.mp4")
    await server.stop(None)
    assert list((tmp_path / "out").iterdir()) == []


class RefusingHub(job_service_pb2_grpc.JobServiceServicer):
    async def GetArtifact(self, request, context):
        return pb.GetArtifactResponse()

    async def UploadArtifact(self, requests, context):
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "readers only look")

    async def RunJobs(self, requests, context):
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "readers only look")
        yield


async def test_who_is_refused_while_still_sending_is_told_why(tmp_path, files) -> None:
    """Where a write fails after the refusal, gRPC forgets the refusal."""
    server = grpc.aio.server()
    job_service_pb2_grpc.add_JobServiceServicer_to_server(RefusingHub(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    (tmp_path / "long.png").write_bytes(peers.JPEG + bytes(3 * MIB))
    async with AsyncSonicClient(f"127.0.0.1:{port}", patience_s=10, insecure=True) as client:
        for _ in range(10):
            with pytest.raises(exceptions.NotAllowed, match="readers only look"):
                await client.upload(tmp_path / "long.png")
            with pytest.raises(exceptions.NotAllowed, match="readers only look"):
                await client.run(pb.SubmitJobRequest(idempotency_key="k"))
    await server.stop(None)


async def test_a_folder_that_cannot_be_written_is_said(client, node, files, tmp_path) -> None:
    job = await succeeded_job(client, node, files)
    (tmp_path / "taken").write_text("a file, no folder")
    with pytest.raises(exceptions.FileTrouble, match="taken"):
        await client.download(job, tmp_path / "taken" / "video.mp4")


async def test_a_watch_goes_on_after_a_cut_and_tells_nothing_twice(client, proxy, node, files) -> None:
    job = await client.submit(*files)
    ref = (await node.hear("assignment")).assignment.ref
    seen: list[jobs_pb2.Job] = []
    async for update in client.watch(job.job_id):
        seen.append(update)
        if update.state == jobs_pb2.JOB_STATE_ASSIGNED:
            proxy.cut()
            await node.render(ref)
    revisions = [update.revision for update in seen]
    assert proxy.cuts == 1
    assert revisions == sorted(revisions)
    assert len(set(revisions)) == len(revisions)
    assert seen[-1].state == jobs_pb2.JOB_STATE_SUCCEEDED
