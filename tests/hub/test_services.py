"""What callers, agents and operators are promised, over real gRPC."""

from __future__ import annotations

import asyncio
import io
import re
import time
import wave
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from hub.config import InvalidConfig
from hub.core.jobs import Input, RegionRules, Work
from hub.server import fleet_service
from hub.service import Hub, serving
from hub.store import records
from sonic.v1 import admin_service_pb2 as admin_pb
from sonic.v1 import artifacts_pb2, jobs_pb2, nodes_pb2, parameters_pb2
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb

from .conftest import config
from .peers import JPEG, MP4, WAV, Agent, Caller, digest


def details(error: grpc.aio.AioRpcError, kind: type) -> object:
    """One of the google.rpc details of an error."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    raise AssertionError(f"no {kind.__name__} in {status}")


def wav_of(seconds: float) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(bytes(int(seconds * 32_000)))
    return file.getvalue()


async def refused(call, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    return caught.value


async def test_a_job_goes_from_submission_to_a_fetched_video(caller: Caller, agent: Agent) -> None:
    job = await caller.submit_new("k1")
    assert (job.state, job.queue_position, job.revision) == (jobs_pb2.JOB_STATE_QUEUED, 1, 1)
    await agent.join()
    assignment = (await agent.hear("assignment")).assignment
    assert assignment.tenant == "acme"
    assert assignment.spec.parameters.min_resolution == 1024  # defaults are filled in
    fetched = b""
    request = fleet_pb.FetchInputRequest(node_id="n1", ref=assignment.ref, sha256=digest(JPEG))
    async for part in agent.fleet.FetchInput(request):
        fetched += part.chunk
    assert fetched == JPEG
    ack = await agent.render(assignment.ref)
    assert ack.verdict == fleet_pb.RESULT_VERDICT_COMMITTED
    done = await caller.ended(job.job_id)
    assert done.state == jobs_pb2.JOB_STATE_SUCCEEDED
    assert (done.video.sha256, done.video.media_type) == (digest(MP4), "video/mp4")
    (attempt,) = done.attempts
    assert attempt.node_id == "n1"
    assert attempt.placement_reason.startswith("expected to finish in ")


async def test_bad_requests_name_every_field_at_once_and_store_nothing(caller: Caller) -> None:
    await caller.upload(WAV)
    spec = jobs_pb2.JobSpec(
        portrait_sha256=digest(WAV),
        voice_sha256="0" * 64,
        priority=99,
        parameters=parameters_pb2.RenderParameters(fps=500, min_resolution=100),
    )
    error = await refused(
        caller.jobs.SubmitJob(job_pb.SubmitJobRequest(spec=spec), metadata=caller.metadata),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    bad = details(error, error_details_pb2.BadRequest)
    assert {violation.field for violation in bad.field_violations} == {
        "idempotency_key",
        "spec.portrait_sha256",
        "spec.voice_sha256",
        "spec.priority",
        "spec.parameters.fps",
        "spec.parameters.min_resolution",
    }
    listed = await caller.jobs.ListJobs(job_pb.ListJobsRequest(), metadata=caller.metadata)
    assert not listed.jobs


async def test_names_that_a_database_cannot_hold_are_refused_at_the_door(caller: Caller) -> None:
    await caller.upload(JPEG)
    await caller.upload(WAV)
    await refused(caller.submit("k1", engine="warp\0"), grpc.StatusCode.INVALID_ARGUMENT)
    await refused(caller.submit("k1", portrait_sha256="\0"), grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_text_that_a_database_cannot_hold_is_refused_alone(caller: Caller) -> None:
    await caller.upload(JPEG)
    await caller.upload(WAV)
    items = [job_pb.SubmitJobRequest(idempotency_key=key, spec=caller.spec()) for key in ("k1", "k2\0", "k3", "k4")]
    items[2].spec.voice_sha256 = "\0"
    items[3].spec.regions.prefer.append("eu\0")
    answer = await caller.jobs.SubmitBatch(job_pb.SubmitBatchRequest(items=items), metadata=caller.metadata)
    assert [[problem.field for problem in item.error.problems] for item in answer.items] == [
        [],
        ["idempotency_key"],
        ["spec.voice_sha256"],
        ["spec.regions.prefer"],
    ]
    assert answer.items[0].job.job_id


async def test_values_outside_the_recommended_range_warn(caller: Caller) -> None:
    job = await caller.submit_new("k1", parameters=parameters_pb2.RenderParameters(dynamic_scale=1.9))
    assert [warning.reason for warning in job.warnings] == ["OUTSIDE_RECOMMENDED_RANGE", "NO_NODES_YET"]


async def test_a_repeated_key_is_one_job_and_another_spec_is_refused(caller: Caller) -> None:
    first = await caller.submit_new("k1")
    assert (await caller.submit("k1")).job_id == first.job_id
    await refused(caller.submit("k1", priority=3), grpc.StatusCode.ALREADY_EXISTS)


async def test_a_batch_judges_each_item_by_itself(caller: Caller) -> None:
    await caller.upload(JPEG)
    await caller.upload(WAV)
    items = [job_pb.SubmitJobRequest(idempotency_key=f"k{n}", spec=caller.spec()) for n in range(3)]
    items.insert(1, job_pb.SubmitJobRequest(idempotency_key="bad", spec=caller.spec(priority=99)))
    items.append(items[0])
    answer = await caller.jobs.SubmitBatch(job_pb.SubmitBatchRequest(items=items), metadata=caller.metadata)
    assert [item.WhichOneof("outcome") for item in answer.items] == ["job", "error", "job", "job", "job"]
    assert answer.items[0].job.job_id == answer.items[4].job.job_id
    error = answer.items[1].error
    assert (error.reason, [p.field for p in error.problems]) == ("INVALID_REQUEST", ["spec.priority"])


async def test_an_upload_goes_on_where_it_was_cut_and_is_not_sent_twice(caller: Caller) -> None:
    data = JPEG * 3
    await refused(caller.upload(data, stop=900), grpc.StatusCode.FAILED_PRECONDITION)
    request = job_pb.GetArtifactRequest(sha256=digest(data))
    status = (await caller.jobs.GetArtifact(request, metadata=caller.metadata)).status
    assert (status.complete, status.received_bytes) == (False, 900)
    assert (await caller.upload(data, offset=900)).artifact.size_bytes == len(data)
    assert (await caller.upload(data, stop=0)).artifact.media_type == "image/jpeg"


async def test_bytes_that_are_not_those_of_the_hash_are_never_stored(caller: Caller) -> None:
    await refused(caller.upload(JPEG, sha256=digest(WAV)), grpc.StatusCode.DATA_LOSS)
    request = job_pb.GetArtifactRequest(sha256=digest(WAV))
    status = (await caller.jobs.GetArtifact(request, metadata=caller.metadata)).status
    assert (status.complete, status.received_bytes) == (False, 0)


async def test_uploads_are_bounded_and_say_the_limit(tmp_path: Path) -> None:
    async with (
        serving(config(tmp_path, max_artifact_bytes=100)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        error = await refused(Caller(channel).upload(JPEG), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert "100 bytes" in details(error, error_details_pb2.QuotaFailure).violations[0].description


async def test_the_queue_of_a_tenant_is_bounded(tmp_path: Path) -> None:
    async with (
        serving(config(tmp_path, max_queued_jobs=1)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        await Caller(channel).submit_new("k1")
        error = await refused(Caller(channel).submit("k2"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert details(error, error_details_pb2.RetryInfo).retry_delay.seconds > 0
        assert "1 may wait" in error.details()
        await Caller(channel, "rival").submit_new("k1")  # another tenant's queue is its own


async def test_regions_and_deadlines_are_checked_at_the_door(caller: Caller) -> None:
    await caller.upload(JPEG)
    await caller.upload(WAV)
    regions = jobs_pb2.RegionRules(prefer=["eu", "us", "eu"], require=["us", "-x"], avoid=[f"r{n}" for n in range(33)])
    past = Timestamp(seconds=int(time.time()) - 60)
    error = await refused(caller.submit("k1", regions=regions, deadline=past), grpc.StatusCode.INVALID_ARGUMENT)
    said = [(v.field, v.description) for v in details(error, error_details_pb2.BadRequest).field_violations]
    assert [field for field, _ in said] == ["spec.regions.require"] * 2 + ["spec.regions.avoid", "spec.deadline"]
    assert "has 'us', as regions.prefer does" in said[0][1]
    assert "is '-x'" in said[1][1]
    assert "33 regions; 32 is the limit" in said[2][1]
    assert re.search(r"passed 6\d s ago", said[3][1])
    late = Timestamp(seconds=int(time.time()) + 40 * 86_400)
    error = await refused(caller.submit("k1", deadline=late), grpc.StatusCode.INVALID_ARGUMENT)
    assert "30 days is the limit" in error.details()


async def test_a_repeat_after_the_deadline_answers_the_job_that_is_there(caller: Caller) -> None:
    for data in (JPEG, WAV):
        await caller.upload(data)
    deadline = Timestamp()
    deadline.FromNanoseconds(time.time_ns() + 2_000_000_000)
    job = await caller.submit("k1", deadline=deadline)
    await asyncio.sleep(2.1)
    assert (await caller.submit("k1", deadline=deadline)).job_id == job.job_id
    await refused(caller.submit("k2", deadline=deadline), grpc.StatusCode.INVALID_ARGUMENT)


async def test_the_decisions_know_what_a_job_wants(hub: Hub, caller: Caller) -> None:
    regions = jobs_pb2.RegionRules(prefer=["eu"], avoid=["us"])
    deadline = Timestamp(seconds=int(time.time()) + 600)
    wanted = parameters_pb2.RenderParameters(min_resolution=512, inference_steps=30, duration=12.5)
    job = await caller.submit_new("k1", regions=regions, deadline=deadline, parameters=wanted)
    known = hub.dispatcher._dispatch.jobs[job.job_id]
    assert known.work == Work(12.5, 512, 30)
    assert known.inputs == (Input(digest(JPEG), len(JPEG)), Input(digest(WAV), len(WAV)))
    assert known.regions == RegionRules(prefer=frozenset({"eu"}), avoid=frozenset({"us"}))
    assert 590 < known.deadline_s - time.monotonic() < 601
    with hub.dispatcher._database.connect() as connection:
        (loaded,) = records.live_jobs(connection, time.monotonic() - time.time())
    assert abs(loaded.deadline_s - known.deadline_s) < 0.1
    assert replace(loaded, deadline_s=known.deadline_s) == known


async def test_what_no_node_could_run_is_refused_with_what_would_fit(hub: Hub, caller: Caller, agent: Agent) -> None:
    before = await caller.submit_new("k1", engine="wrap")  # nobody knows yet what nodes there will be
    assert [warning.reason for warning in before.warnings] == ["NO_NODES_YET"]
    await agent.join()
    while not (node := hub.dispatcher.nodes.get("n1")) or not node.online:  # Welcome comes before it is dealt with
        await asyncio.sleep(0.01)
    nowhere = jobs_pb2.RegionRules(require=["ue"])
    error = await refused(caller.submit("k2", engine="wrap", regions=nowhere), grpc.StatusCode.INVALID_ARGUMENT)
    said = {v.field: v.description for v in details(error, error_details_pb2.BadRequest).field_violations}
    assert "did you mean 'warp'" in said["spec.engine"]
    assert "choose from 'eu'" in said["spec.regions.require"]
    error = await refused(caller.submit("k3", model_version="2"), grpc.StatusCode.INVALID_ARGUMENT)
    assert "choose from '1', or leave it out" in error.details()
    assert (await caller.submit("k1", engine="wrap")).job_id == before.job_id  # a repeat is answered all the same


async def test_a_job_that_waits_says_when_it_should_start_and_finish(caller: Caller, agent: Agent) -> None:
    await agent.join()
    await caller.submit_new("k1")
    await agent.hear("assignment")
    job = await caller.submit("k2")
    start, finish = job.forecast.start, job.forecast.finish
    assert job.queue_position == 1
    assert 0 <= start.low <= start.expected <= start.high
    assert start.expected < finish.expected
    assert finish.low <= finish.expected <= finish.high


async def test_how_long_a_recording_is_is_guessed_and_then_learned(hub: Hub, caller: Caller, agent: Agent) -> None:
    """A WAV tells it in its header; of another type it is guessed from the size, until a render has told."""
    wav = wav_of(seconds=2.5)
    mp3 = b"ID3" + b"voice" * 10_000
    for data in (JPEG, wav, mp3):
        await caller.upload(data)

    def length_s(job: jobs_pb2.Job) -> float:
        return hub.dispatcher._dispatch.jobs[job.job_id].work.video_s

    def spec(voice: bytes) -> dict[str, str]:
        return {"voice_sha256": digest(voice)}

    await agent.join()
    job = await caller.submit("k1", **spec(mp3))
    guessed_s = length_s(job)
    assert 1 < guessed_s < 10
    ref = (await agent.hear("assignment")).assignment.ref
    video = await agent.upload_video(ref)
    report = jobs_pb2.RenderReport(audio_seconds=7.25)
    agent.say(result=fleet_pb.AttemptResult(ref=ref, video=fleet_pb.RenderedVideo(video=video, report=report)))
    await agent.hear("result_ack")
    assert length_s(await caller.submit("k2", **spec(mp3))) == 7.25
    assert length_s(await caller.submit("k3", **spec(wav))) == 2.5


async def test_downloads_take_a_range(caller: Caller) -> None:
    await caller.upload(JPEG)
    wanted = artifacts_pb2.ByteRange(offset_bytes=3, length_bytes=8)
    request = job_pb.DownloadArtifactRequest(sha256=digest(JPEG), range=wanted)
    parts = [part async for part in caller.jobs.DownloadArtifact(request, metadata=caller.metadata)]
    assert parts[0].artifact.size_bytes == len(JPEG)
    assert b"".join(part.chunk for part in parts) == b"portrait"


async def test_tenants_do_not_see_each_other(caller: Caller, channel: grpc.aio.Channel) -> None:
    job = await caller.submit_new("k1")
    rival = Caller(channel, "rival")
    await refused(rival.get(job.job_id), grpc.StatusCode.NOT_FOUND)
    cancel = job_pb.CancelJobRequest(job_id=job.job_id)
    await refused(rival.jobs.CancelJob(cancel, metadata=rival.metadata), grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.aio.AioRpcError):
        await rival.ended(job.job_id)
    error = await refused(rival.submit("k1"), grpc.StatusCode.INVALID_ARGUMENT)  # a hash is not a capability
    assert "has not been uploaded" in error.details()
    assert (await caller.get(job.job_id)).state == jobs_pb2.JOB_STATE_QUEUED


@pytest.mark.parametrize("tenant", ["a:b", "a|b", "..", "x" * 151, "a/b"])
async def test_tenant_names_follow_mimirs_rules(channel: grpc.aio.Channel, tenant: str) -> None:
    await refused(Caller(channel, tenant).get("x"), grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_call_without_a_tenant_is_refused(caller: Caller) -> None:
    await refused(caller.jobs.GetJob(job_pb.GetJobRequest(job_id="x")), grpc.StatusCode.UNAUTHENTICATED)


async def test_cancel_reaches_the_node_and_is_idempotent(caller: Caller, agent: Agent) -> None:
    await agent.join()
    job = await caller.submit_new("k1")
    ref = (await agent.hear("assignment")).assignment.ref
    request = job_pb.CancelJobRequest(job_id=job.job_id)
    for _ in range(2):
        answer = await caller.jobs.CancelJob(request, metadata=caller.metadata)
        assert answer.job.state == jobs_pb2.JOB_STATE_CANCELLED
    assert (await agent.hear("cancel")).cancel.ref == ref
    await refused(agent.upload_video(ref), grpc.StatusCode.PERMISSION_DENIED)  # finished in the same moment: too late
    agent.report_video(ref)
    assert (await agent.hear("result_ack")).result_ack.verdict == fleet_pb.RESULT_VERDICT_SUPERSEDED
    assert (await caller.get(job.job_id)).state == jobs_pb2.JOB_STATE_CANCELLED


async def test_watch_tells_progress_and_resumes_by_revision(caller: Caller, agent: Agent) -> None:
    job = await caller.submit_new("k1")
    watch = caller.jobs.WatchJob(job_pb.WatchJobRequest(job_id=job.job_id), metadata=caller.metadata)
    assert (await watch.read()).job.state == jobs_pb2.JOB_STATE_QUEUED
    await agent.join()
    ref = (await agent.hear("assignment")).assignment.ref
    agent.say(started=fleet_pb.AttemptStarted(ref=ref))
    agent.say(progress=fleet_pb.AttemptProgress(ref=ref, progress=jobs_pb2.Progress(stage="rendering", fraction=0.5)))
    seen = []
    while not seen or seen[-1].progress.fraction < 0.5:
        seen.append((await asyncio.wait_for(watch.read(), 60)).job)
    watch.cancel()
    revisions = [job.revision for job in seen]
    assert revisions == sorted(revisions)
    await agent.upload_video(ref)
    agent.report_video(ref)
    again = job_pb.WatchJobRequest(job_id=job.job_id, after_revision=revisions[-1])
    later = [response.job async for response in caller.jobs.WatchJob(again, metadata=caller.metadata)]
    assert all(job.revision > revisions[-1] or job.progress.fraction > 0.5 for job in later)
    assert later[-1].state == jobs_pb2.JOB_STATE_SUCCEEDED


async def test_a_node_that_falls_silent_loses_its_job_to_another(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "SILENT_INTERVALS", 60)  # for the other one
    own = config(tmp_path / "hub", database_url=database_url, heartbeat_interval_s=1.0, lease_s=3.0)
    async with serving(own) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
        caller, one, two = Caller(channel), Agent(channel, "n1"), Agent(channel, "n2")
        await one.join()
        job = await caller.submit_new("k1")
        await one.hear("assignment")
        one.cut()
        await two.join()
        assignment = (await two.hear("assignment")).assignment
        assert assignment.ref.attempt == 2
        await two.render(assignment.ref)
        done = await caller.ended(job.job_id)
    assert [(a.node_id, a.failure.reason) for a in done.attempts] == [("n1", "LEASE_EXPIRED"), ("n2", "")]


async def test_a_second_session_of_a_node_ends_the_first(channel: grpc.aio.Channel) -> None:
    one, two = Agent(channel, "n1"), Agent(channel, "n1")
    await one.join()
    await two.join()
    assert await asyncio.wait_for(one.call.read(), 60) is grpc.aio.EOF


async def test_an_agent_reaches_only_what_it_was_given(caller: Caller, agent: Agent, channel: grpc.aio.Channel) -> None:
    await agent.join()
    await caller.submit_new("k1")
    ref = (await agent.hear("assignment")).assignment.ref
    stranger = Agent(channel, "n2")
    for node, sha256 in ((stranger, digest(JPEG)), (agent, "f" * 64)):
        request = fleet_pb.FetchInputRequest(node_id=node.node_id, ref=ref, sha256=sha256)
        call = node.fleet.FetchInput(request)
        await refused(call.read(), grpc.StatusCode.NOT_FOUND)
    await refused(stranger.upload_video(ref), grpc.StatusCode.NOT_FOUND)


async def test_operators_see_and_drain_nodes(caller: Caller, agent: Agent) -> None:
    await refused(caller.admin.GetNode(admin_pb.GetNodeRequest(node_id="n1")), grpc.StatusCode.NOT_FOUND)
    await agent.join()
    drained = await caller.admin.DrainNode(admin_pb.DrainNodeRequest(node_id="n1"))
    assert drained.node.state == nodes_pb2.NODE_STATE_DRAINING
    await agent.hear("drain")
    job = await caller.submit_new("k1")
    resumed = await caller.admin.ResumeNode(admin_pb.ResumeNodeRequest(node_id="n1"))
    assert resumed.node.state == nodes_pb2.NODE_STATE_READY
    await agent.hear("resume")
    assert (await agent.hear("assignment")).assignment.ref.job_id == job.job_id
    listed = await caller.admin.ListAllJobs(admin_pb.ListAllJobsRequest(tenant="acme"))
    assert [j.job_id for j in listed.jobs] == [job.job_id]


async def test_health_reflection_and_http_answer(hub: Hub, channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service="sonic.v1.JobService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert {"sonic.v1.JobService", "sonic.v1.FleetService", "sonic.v1.AdminService"} <= names
    async with aiohttp.ClientSession(f"http://{hub.http_address}") as http:
        for path in ("/healthz", "/readyz"):
            async with http.get(path) as response:
                assert response.status == 200
        async with http.get("/metrics") as response:
            assert "sonic_hub_commit_seconds_bucket" in await response.text()


async def test_a_hub_that_cannot_listen_or_share_says_so(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="another hub is using"):
        async with serving(config(tmp_path / "hub")):
            pass
    with pytest.raises(InvalidConfig, match="cannot be used"):
        async with serving(config(tmp_path / "other", listen=hub.grpc_address)):
            pass
    with pytest.raises(InvalidConfig, match="leave --insecure out"):
        config(tmp_path, listen="0.0.0.0:50051")


async def test_a_store_that_fails_loses_nothing_that_was_acknowledged(
    hub: Hub, caller: Caller, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await caller.submit_new("k1")
    database = hub.dispatcher._database
    with database.begin() as blocker:  # another writer holds the database
        locks = database.dialect.name == "postgresql"
        blocker.exec_driver_sql("LOCK TABLE jobs" if locks else "UPDATE jobs SET priority = priority")
        gone, refused = (asyncio.create_task(caller.submit(key)) for key in ("k3", "k2"))
        await asyncio.sleep(0.3)
        gone.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(refused, 60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await agent.join()
    ref = (await agent.hear("assignment")).assignment.ref
    assert ref.job_id == job.job_id
    assert (await agent.render(ref)).verdict == fleet_pb.RESULT_VERDICT_COMMITTED


async def test_who_left_in_order_is_not_missed_after_a_restart_of_the_hub(tmp_path: Path) -> None:
    for restart in range(2):
        async with serving(config(tmp_path / "hub")) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
            if restart:
                assert (hub.sessions.left("leaver"), hub.sessions.left("lost")) == (True, False)
                back = Agent(channel, "leaver")
                await back.join()
                assert not hub.sessions.left("leaver")
                return
            leaver, lost = Agent(channel, "leaver"), Agent(channel, "lost")
            await leaver.join()
            await lost.join()
            leaver.say(draining=fleet_pb.Draining(reason="stops"))
            while not (node := hub.dispatcher.nodes.get("leaver")) or not node.leaving:
                await asyncio.sleep(0.01)
            leaver.cut()
            lost.cut()
            while hub.sessions.all():
                await asyncio.sleep(0.01)
