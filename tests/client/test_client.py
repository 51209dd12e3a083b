"""What the client library promises: it repeats safely, says what went wrong, and reads what is there."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest

from hub.service import Hub, serving
from sonic import exceptions, statuses
from sonic.client import AsyncSonicClient, SonicClient
from sonic.parameters import InvalidParameters
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import job_service_pb2_grpc, jobs_pb2, nodes_pb2
from tests.client.conftest import busy
from tests.hub import peers
from tests.hub.conftest import config
from tests.processes import free_port


async def test_a_job_goes_from_files_to_a_file(client, node, files, tmp_path) -> None:
    async with busy(node):
        job = await client.submit(*files, fps=30, priority=2)
        assert job.spec.parameters.fps == 30
        assert job.spec.parameters.min_resolution == 1024
        assert job.spec.priority == 2
        ended = await client.wait(job.job_id)
        video = await client.download(ended, tmp_path / "out" / "video.mp4")
    assert video.read_bytes() == peers.MP4
    assert [path.name for path in video.parent.iterdir()] == ["video.mp4"]


async def test_the_sync_client_needs_no_loop_and_minds_none(hub: Hub, node, files, tmp_path) -> None:
    def ten_lines() -> list[jobs_pb2.JobState.ValueType]:
        with SonicClient(hub.grpc_address, "acme", insecure=True) as client:
            job = client.submit(*files)
            states = [update.state for update in client.watch(job.job_id)]
            client.download(client.wait(job.job_id), tmp_path / "video.mp4")
            assert [found.job_id for found in client.jobs()] == [job.job_id]
            return states

    async with busy(node):
        states = await asyncio.to_thread(ten_lines)
    assert states[-1] == jobs_pb2.JOB_STATE_SUCCEEDED
    assert states == sorted(states)
    assert (tmp_path / "video.mp4").read_bytes() == peers.MP4


async def test_jobs_that_run_together_outlive_a_cut(client, proxy, node, files) -> None:
    spec = jobs_pb2.JobSpec(
        portrait_sha256=(await client.upload(files[0])).sha256, voice_sha256=(await client.upload(files[1])).sha256
    )
    runs = [
        asyncio.create_task(client.run(pb.SubmitJobRequest(idempotency_key=f"k{number}", spec=spec)))
        for number in range(5)
    ]
    while len([job async for job in client.jobs()]) < 5:
        await asyncio.sleep(0.02)
    proxy.cut()
    async with busy(node) as rendered, asyncio.timeout(20):
        ended = await asyncio.gather(*runs)
    assert [job.idempotency_key for job in ended] == [f"k{number}" for number in range(5)]
    assert {job.state for job in ended} == {jobs_pb2.JOB_STATE_SUCCEEDED}
    assert sorted(job.job_id for job in ended) == sorted(rendered)


async def test_a_job_that_cannot_run_says_why(client, node, files) -> None:
    spec = jobs_pb2.JobSpec(portrait_sha256=(await client.upload(files[0])).sha256, voice_sha256="0" * 64)
    with pytest.raises(exceptions.InvalidRequest, match="has not been uploaded") as refusal:
        await client.run(pb.SubmitJobRequest(idempotency_key="k", spec=spec))
    assert refusal.value.problems[0].field == "spec.voice_sha256"


async def test_a_key_that_runs_is_one_job(client, node, files) -> None:
    spec = jobs_pb2.JobSpec(
        portrait_sha256=(await client.upload(files[0])).sha256, voice_sha256=(await client.upload(files[1])).sha256
    )
    same = pb.SubmitJobRequest(idempotency_key="k", spec=spec)
    runs = [asyncio.create_task(client.run(same)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(exceptions.KeyReused):
        await client.run(pb.SubmitJobRequest(idempotency_key="k", spec=jobs_pb2.JobSpec(priority=1)))
    async with busy(node) as rendered:
        one, other = await asyncio.gather(*runs)
    assert [one.job_id] == [other.job_id] == rendered


async def test_bad_parameters_are_refused_before_anything_is_sent(client, proxy, files) -> None:
    with pytest.raises(InvalidParameters, match=r"min_resolution is 700.*\nfps is 600"):
        await client.submit(*files, fps=600, min_resolution=700)
    assert proxy.sent_bytes == 0


class ForgetfulHub(job_service_pb2_grpc.JobServiceServicer):
    """Stores a job, and the answer is lost on the way."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def GetArtifact(self, request, context):
        response = pb.GetArtifactResponse()
        response.status.complete = True
        response.status.artifact.sha256 = request.sha256
        return response

    async def SubmitJob(self, request, context):
        self.keys.append(request.idempotency_key)
        if len(self.keys) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return pb.SubmitJobResponse(job=jobs_pb2.Job(job_id="j1"))


async def test_a_repeated_submission_has_the_same_key(files) -> None:
    hub = ForgetfulHub()
    server = grpc.aio.server()
    job_service_pb2_grpc.add_JobServiceServicer_to_server(hub, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncSonicClient(f"127.0.0.1:{port}", insecure=True) as client:
        first = await client.submit(*files)
        second = await client.submit(*files)
    await server.stop(None)
    assert first.job_id == second.job_id == "j1"
    assert hub.keys[0] == hub.keys[1] == hub.keys[2] != hub.keys[3]


async def test_every_job_is_listed_once_over_pages(client, files) -> None:
    job = await client.submit(*files)
    items = [pb.SubmitJobRequest(spec=job.spec, idempotency_key=f"k{n}") for n in range(1203)]
    answers = await client.submit_batch(items)
    assert [answer.idempotency_key for answer in answers] == [item.idempotency_key for item in items]
    listed = [found.job_id async for found in client.jobs()]
    assert len(listed) == len(set(listed)) == 1204
    assert not [found async for found in client.jobs([jobs_pb2.JOB_STATE_FAILED])]


async def test_refusals_say_which_field_and_what_to_do(client, files, tmp_path) -> None:
    job = await client.submit(*files, idempotency_key="mine")
    with pytest.raises(exceptions.KeyReused, match="fresh key"):
        await client.submit(*files, idempotency_key="mine", fps=30)
    with pytest.raises(exceptions.NotFound, match="nobody"):
        await client.get("nobody")
    with pytest.raises(exceptions.InvalidRequest) as refused:
        await client.submit(files[1], files[0], priority=99)
    wrong = {"priority", f"the portrait {files[1]}", f"the voice {files[0]}"}
    assert {problem.field for problem in refused.value.problems} == wrong
    assert all(name in str(refused.value) for name in wrong)
    with pytest.raises(exceptions.JobUnfinished, match="has not ended"):
        await client.download(job, tmp_path / "video.mp4")
    with pytest.raises(exceptions.FileTrouble, match=r"there is no file .*no\.wav"):
        await client.submit(files[0], tmp_path / "no.wav")


async def test_a_limit_says_when_to_come_back(tmp_path, files) -> None:
    async with (
        serving(config(tmp_path / "hub", max_queued_jobs=1)) as hub,
        AsyncSonicClient(hub.grpc_address, insecure=True) as client,
    ):
        await client.submit(*files)
        with pytest.raises(exceptions.LimitReached, match="1 may wait") as refused:
            await client.submit(*files)
    assert refused.value.retry_after_s
    assert refused.value.reason == "LIMIT_REACHED"


async def test_a_hub_that_is_not_there_is_said_with_its_address(files) -> None:
    async with AsyncSonicClient("127.0.0.1:9", patience_s=0.1, insecure=True) as client:
        with pytest.raises(exceptions.HubUnreachable, match=r"127\.0\.0\.1:9"):
            await client.submit(*files)


async def test_many_calls_that_meet_one_outage_say_so_once(caplog) -> None:
    async with AsyncSonicClient(f"127.0.0.1:{free_port()}", patience_s=1, insecure=True) as client:
        met = await asyncio.gather(*(client.nodes() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(one, exceptions.HubUnreachable) for one in met)
    assert sum("Trying again" in record.message for record in caplog.records) == 1


async def test_a_call_waits_until_the_hub_is_back(client, proxy, files) -> None:
    job = await client.submit(*files)
    proxy.open = False
    proxy.cut()
    asking = asyncio.create_task(client.get(job.job_id))
    while not proxy.refused:
        await asyncio.sleep(0.01)
    proxy.open = True
    assert (await asking).job_id == job.job_id


async def test_a_cancelled_job_is_an_error_to_whoever_waits(client, files, tmp_path) -> None:
    job = await client.submit(*files)
    assert (await client.cancel(job.job_id)).state == jobs_pb2.JOB_STATE_CANCELLED
    assert (await client.cancel(job.job_id)).state == jobs_pb2.JOB_STATE_CANCELLED
    with pytest.raises(exceptions.JobCancelled, match=job.job_id):
        await client.wait(job.job_id)
    with pytest.raises(exceptions.JobCancelled):
        await client.download(await client.get(job.job_id), tmp_path / "video.mp4")


async def test_an_operator_drains_and_resumes_a_node(client, node) -> None:
    assert [found.node_id for found in await client.nodes()] == ["n1"]
    assert await client.nodes("nowhere") == []
    assert (await client.drain("n1")).state == nodes_pb2.NODE_STATE_DRAINING
    assert (await client.resume("n1")).state == nodes_pb2.NODE_STATE_READY
    with pytest.raises(exceptions.NotFound, match="n9"):
        await client.node("n9")


def test_every_situation_is_in_the_tree_at_the_top() -> None:
    classes = [
        value
        for value in vars(exceptions).values()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    ]
    assert classes
    for value in classes:
        assert f"{value.__name__} " in f"{exceptions.__doc__} ".replace("\n", " \n"), value
        assert value.__doc__
        assert issubclass(value, exceptions.SonicError)


def test_what_grpc_says_of_an_address_is_told_without_its_brackets() -> None:
    said = "failed to connect to all addresses; last error: [UNAVAILABLE: dns: Domain name not found]"
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), said)
    assert "(Domain name not found);" in str(statuses.to_exception(error, "nowhere:1"))


async def test_regions_and_a_deadline_reach_the_hub(client, files) -> None:
    deadline = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    job = await client.submit(*files, prefer_regions=["eu"], avoid_regions=["ap", "us"], deadline=deadline)
    assert (list(job.spec.regions.prefer), list(job.spec.regions.avoid)) == (["eu"], ["ap", "us"])
    assert job.spec.deadline.ToDatetime(UTC) == deadline
    plain = await client.submit(*files)
    assert not plain.spec.HasField("regions")
    assert not plain.spec.HasField("deadline")
    with pytest.raises(ValueError, match="no offset"):
        await client.submit(*files, deadline=datetime(2026, 5, 1))  # noqa: DTZ001 - that is the mistake
