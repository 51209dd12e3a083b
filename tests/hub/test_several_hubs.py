"""Two hubs on one database are one hub to callers, agents and operators, and when one dies nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa

from hub.config import InvalidConfig
from hub.server import fleet_service
from hub.service import Hub, serving
from sonic.lines import Line
from sonic.v1 import admin_service_pb2 as admin_pb
from sonic.v1 import fleet_service_pb2 as fleet_pb
from sonic.v1 import job_service_pb2 as job_pb
from sonic.v1 import jobs_pb2, nodes_pb2
from tests import postgres
from tests.postgres import Cluster
from tests.processes import free_port, process, python, wait_until_ready

from .conftest import config
from .peers import JPEG, WAV, Agent, Caller
from .test_kill import Node, until_answered
from .test_runs import Runner
from .test_services import refused


@pytest.fixture
def url(cluster: Cluster) -> str:
    return cluster.database()


@asynccontextmanager
async def one_hub(folder: Path, name: str, url: str, **about: object) -> AsyncIterator[tuple[Hub, grpc.aio.Channel]]:
    """A hub that shares its database and its files with others, and looks at both often, but lets nodes be silent."""
    shared = {"database_url": url, "artifacts_url": (folder / "files").as_uri(), "heartbeat_interval_s": 0.5}
    (folder / "files").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fleet_service, "SILENT_INTERVALS", 120)
        async with (
            serving(config(folder / name, hub_id=name, **(shared | about))) as hub,
            grpc.aio.insecure_channel(hub.grpc_address) as channel,
        ):
            yield hub, channel


@pytest.fixture
async def channels(tmp_path: Path, url: str) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Channel]]:
    async with one_hub(tmp_path, "a", url) as (_, a), one_hub(tmp_path, "b", url) as (_, b):
        yield a, b


Channels = tuple[grpc.aio.Channel, grpc.aio.Channel]


async def until(look, wanted) -> None:
    """Look again until what is wanted is seen."""
    async with asyncio.timeout(60):
        while (seen := await look()) != wanted:
            await asyncio.sleep(0.02)
    assert seen == wanted


async def test_work_queued_at_one_hub_is_done_by_an_agent_of_another(channels: Channels) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    await agent.join()
    job = await caller.submit_new("k1")
    assignment = (await agent.hear("assignment")).assignment
    fetched = agent.fleet.FetchInput(
        fleet_pb.FetchInputRequest(node_id="n1", ref=assignment.ref, sha256=assignment.portrait.sha256)
    )
    assert b"".join([part.chunk async for part in fetched]) == JPEG
    assert (await agent.render(assignment.ref)).verdict == fleet_pb.RESULT_VERDICT_COMMITTED
    done = await caller.ended(job.job_id)
    assert done.state == jobs_pb2.JOB_STATE_SUCCEEDED
    video = caller.jobs.DownloadArtifact(
        job_pb.DownloadArtifactRequest(sha256=done.video.sha256), metadata=caller.metadata
    )
    assert len(b"".join([part.chunk async for part in video])) == done.video.size_bytes


async def test_it_gets_there_by_a_note(tmp_path: Path, url: str) -> None:
    """A look at all rows would come too late."""
    seldom = {"heartbeat_interval_s": 600.0, "lease_s": 1200.0}
    async with one_hub(tmp_path, "a", url, **seldom) as (_, a), one_hub(tmp_path, "b", url, **seldom) as (_, b):
        caller, agent = Caller(a), Agent(b)
        await agent.join()
        for data in (JPEG, WAV):
            await caller.upload(data)
        for number in range(20):
            job = await caller.submit(f"k{number}")
            ref = (await agent.hear("assignment")).assignment.ref
            assert ref.job_id == job.job_id
            await agent.render(ref)


async def test_the_end_of_a_job_at_another_hub_is_told(channels: Channels) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    await agent.join()
    for data in (JPEG, WAV):
        await caller.upload(data)
    runner = Runner(caller)
    await runner.say("k1")
    (job_id,) = await runner.accepted("k1")
    await agent.render((await agent.hear("assignment")).assignment.ref)
    assert (await runner.ended()).job_id == job_id


async def test_cancel_and_progress_pass_between_hubs(channels: Channels) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    await agent.join()
    job = await caller.submit_new("k1")
    ref = (await agent.hear("assignment")).assignment.ref
    agent.say(started=fleet_pb.AttemptStarted(ref=ref))
    agent.say(progress=fleet_pb.AttemptProgress(ref=ref, progress=jobs_pb2.Progress(stage="rendering", fraction=0.5)))
    watch = caller.jobs.WatchJob(job_pb.WatchJobRequest(job_id=job.job_id), metadata=caller.metadata)
    async with asyncio.timeout(60):
        while (await watch.read()).job.progress.fraction < 0.5:
            pass
    request = job_pb.CancelJobRequest(job_id=job.job_id)
    answer = await caller.jobs.CancelJob(request, metadata=caller.metadata)
    assert answer.job.state == jobs_pb2.JOB_STATE_CANCELLED
    assert (await agent.hear("cancel")).cancel.ref == ref
    assert (await watch.read()).job.state == jobs_pb2.JOB_STATE_CANCELLED


async def test_a_job_can_be_cancelled_at_another_hub_as_soon_as_it_is_stored(channels: Channels) -> None:
    here, there = Caller(channels[0]), Caller(channels[1])
    for number in range(10):
        job = await here.submit_new(f"k{number}")
        request = job_pb.CancelJobRequest(job_id=job.job_id)
        answer = await there.jobs.CancelJob(request, metadata=there.metadata)
        assert answer.job.state == jobs_pb2.JOB_STATE_CANCELLED


async def test_operators_see_and_drain_nodes_of_another_hub(channels: Channels) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    await agent.join()

    async def shown() -> tuple[nodes_pb2.NodeState.ValueType, str, int]:
        (node,) = (await caller.admin.ListNodes(admin_pb.ListNodesRequest())).nodes
        return node.state, node.hub_id, len(node.slots)

    await until(shown, (nodes_pb2.NODE_STATE_READY, "b", 1))
    drained = await caller.admin.DrainNode(admin_pb.DrainNodeRequest(node_id="n1"))
    assert drained.node.state == nodes_pb2.NODE_STATE_DRAINING
    await agent.hear("drain")
    job = await caller.submit_new("k1")
    resumed = await caller.admin.ResumeNode(admin_pb.ResumeNodeRequest(node_id="n1"))
    assert resumed.node.state == nodes_pb2.NODE_STATE_READY
    await agent.hear("resume")
    assert (await agent.hear("assignment")).assignment.ref.job_id == job.job_id
    agent.cut()
    await until(shown, (nodes_pb2.NODE_STATE_OFFLINE, "", 0))


HEAT = nodes_pb2.PlayFault(fault=nodes_pb2.GAME_DAY_FAULT_HEAT, seconds=5)


async def holder(caller: Caller) -> str:
    (node,) = (await caller.admin.ListNodes(admin_pb.ListNodesRequest())).nodes
    return node.hub_id


async def test_a_fault_is_played_through_any_hub_and_is_in_the_audit_log_once(
    channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    await agent.join(plays_faults=True)
    await until(lambda: holder(caller), "b")
    await caller.admin.PlayFault(admin_pb.PlayFaultRequest(node_id="n1", fault=HEAT))
    assert (await agent.hear("play_fault")).play_fault == HEAT
    kept = [line.getMessage() for line in caplog.records if line.name == "audit"]
    assert kept == ["PlayFault n1: done"]


async def test_a_node_refuses_a_fault_in_the_same_words_through_any_hub(channels: Channels) -> None:
    agent = Agent(channels[1])
    await agent.join()
    await until(lambda: holder(Caller(channels[0])), "b")
    request = admin_pb.PlayFaultRequest(node_id="n1", fault=HEAT)
    answers = [
        await refused(Caller(channel).admin.PlayFault(request), grpc.StatusCode.FAILED_PRECONDITION)
        for channel in channels
    ]
    assert answers[0].details() == answers[1].details()
    assert "does not allow it" in answers[0].details()


async def test_a_node_is_explained_through_any_hub_as_it_is_now(tmp_path: Path, url: str) -> None:
    seldom = {"heartbeat_interval_s": 5.0, "lease_s": 30.0}  # what a hub tells by itself is older than the test
    async with one_hub(tmp_path, "b", url, **seldom) as (_, b), one_hub(tmp_path, "a", url, **seldom) as (_, a):
        caller, there, agent = Caller(a), Caller(b), Agent(b)
        await agent.join()
        await until(lambda: holder(caller), "b")
        health = nodes_pb2.NodeHealth(round_trip_seconds=0.25)
        agent.say(heartbeat=fleet_pb.Heartbeat(health=health))
        request = admin_pb.ExplainNodeRequest(node_id="n1")

        async def known() -> tuple[float, bool]:
            node = (await there.admin.ExplainNode(request)).node
            return node.health.round_trip_seconds, node.standing.score > 0

        await until(known, (0.25, True))
        here = await caller.admin.ExplainNode(request)
        assert here.node.health.round_trip_seconds == 0.25
        assert here.node.standing.score == (await there.admin.ExplainNode(request)).node.standing.score > 0


async def test_a_hub_that_does_not_answer_is_named(channels: Channels, url: str) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[0])
    await agent.join(plays_faults=True)
    await until(lambda: holder(caller), "a")
    agent.cut()
    await until(lambda: holder(caller), "")
    database = sa.create_engine(url)
    with database.begin() as connection:  # a hub that gives signs of life, and does nothing else
        connection.exec_driver_sql("INSERT INTO hubs VALUES ('mute', 'life', extract(epoch FROM now()) + 60)")
        connection.exec_driver_sql("UPDATE nodes SET hub_id = 'mute', session_id = 's'")
    database.dispose()
    await until(lambda: holder(caller), "mute")
    call = caller.admin.PlayFault(admin_pb.PlayFaultRequest(node_id="n1", fault=HEAT))
    silent = await refused(call, grpc.StatusCode.UNAVAILABLE)
    assert "hub mute, which holds the session of node n1, has not answered" in silent.details()
    explained = await caller.admin.ExplainNode(admin_pb.ExplainNodeRequest(node_id="n1"))  # as it was described
    assert explained.node.hub_id == "mute"


async def test_a_drained_node_gets_nothing_from_a_hub_that_it_is_new_to(channels: Channels) -> None:
    caller, before, after = Caller(channels[1]), Agent(channels[0]), Agent(channels[1])
    await before.join()
    await caller.admin.DrainNode(admin_pb.DrainNodeRequest(node_id="n1"))
    await before.hear("drain")
    before.cut()
    await after.join()
    await after.hear("drain")


async def test_the_newer_session_of_a_node_wins_and_its_work_goes_on(channels: Channels) -> None:
    caller, older, newer = Caller(channels[0]), Agent(channels[0]), Agent(channels[1])
    await older.join()
    job = await caller.submit_new("k1")
    ref = (await older.hear("assignment")).assignment.ref
    older.say(started=fleet_pb.AttemptStarted(ref=ref))
    await newer.join(running=[ref])
    assert await asyncio.wait_for(older.call.read(), 60) is grpc.aio.EOF
    assert (await newer.render(ref)).verdict == fleet_pb.RESULT_VERDICT_COMMITTED
    done = await caller.ended(job.job_id)
    assert [(a.attempt, a.node_id) for a in done.attempts] == [(1, "n1")]


async def test_an_attempt_outlives_its_lease_at_a_hub_that_does_not_hold_the_session(tmp_path: Path, url: str) -> None:
    lease = {"lease_s": 5.0}
    async with one_hub(tmp_path, "a", url, **lease) as (_, a), one_hub(tmp_path, "b", url, **lease) as (_, b):
        caller, agent = Caller(a), Agent(b)
        await agent.join()
        job = await caller.submit_new("k1")
        ref = (await agent.hear("assignment")).assignment.ref
        agent.say(started=fleet_pb.AttemptStarted(ref=ref))
        for _ in range(14):  # for 7 s
            await asyncio.sleep(0.5)
            agent.say(heartbeat=fleet_pb.Heartbeat(attempts=[ref]))
        assert (await agent.render(ref)).verdict == fleet_pb.RESULT_VERDICT_COMMITTED
        assert len((await caller.ended(job.job_id)).attempts) == 1


async def test_hubs_that_claim_the_same_jobs_give_each_to_one_node(channels: Channels) -> None:
    callers = [Caller(channel) for channel in channels]
    nodes = [Node(channel, f"n{number}") for number, channel in enumerate(channels * 2)]
    working = [asyncio.create_task(node.work()) for node in nodes]
    for data in (JPEG, WAV):
        await callers[0].upload(data)
    jobs = await asyncio.gather(*(callers[number % 2].submit(f"k{number}") for number in range(80)))
    ended = await asyncio.gather(*(callers[number // 2 % 2].ended(job.job_id) for number, job in enumerate(jobs)))
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    assert all(job.state == jobs_pb2.JOB_STATE_SUCCEEDED for job in ended)
    assert all([attempt.attempt for attempt in job.attempts] == [1] for job in ended)
    assert {attempt.node_id for job in ended for attempt in job.attempts} == {"n0", "n1", "n2", "n3"}


async def test_what_no_note_told_is_found_by_looking(channels: Channels, url: str) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    first = await caller.submit_new("k1")
    await agent.join()
    await agent.render((await agent.hear("assignment")).assignment.ref)
    database = sa.create_engine(url)
    with database.begin() as connection:  # as a hub of the version before does, which tells nobody
        connection.exec_driver_sql(
            "INSERT INTO jobs (job_id, tenant, idempotency_key, spec, engine, model_version, priority, state, revision,"
            " attempt, tries, submitted_at_s) SELECT 'untold', tenant, 'k2', spec, engine, model_version, priority,"
            " 'queued', 1, 0, 0, submitted_at_s FROM jobs WHERE job_id = %s",
            (first.job_id,),
        )
    database.dispose()
    assert (await agent.hear("assignment")).assignment.ref.job_id == "untold"


async def test_the_line_between_hubs_is_mended(channels: Channels, cluster: Cluster, url: str) -> None:
    caller, agent = Caller(channels[0]), Agent(channels[1])
    await agent.join()
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    for data in (JPEG, WAV):
        await until_answered(lambda data=data: caller.upload(data))
    job = await caller.submit("k1")
    assert (await agent.hear("assignment")).assignment.ref.job_id == job.job_id


async def test_two_hubs_do_not_bear_one_name(tmp_path: Path, url: str) -> None:
    patient = {"heartbeat_interval_s": 5.0}  # a busy machine must not make the first seem dead
    async with one_hub(tmp_path, "a", url, **patient):
        with pytest.raises(InvalidConfig, match="give each hub a hub_id of its own"):
            async with serving(config(tmp_path / "other", hub_id="a", database_url=url, **patient)):
                pass
    async with serving(config(tmp_path / "other", hub_id="a", database_url=url)):
        pass  # the name was given back


async def test_a_file_of_sqlite_is_for_one_hub(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with serving(config(tmp_path / "a", database_url=url)):
        (tmp_path / "alias.db").symlink_to(tmp_path / "shared.db")
        for name in ("shared.db", "alias.db"):
            with pytest.raises(InvalidConfig, match=r"shared\.db', which another hub is using.*PostgreSQL"):
                async with serving(config(tmp_path / "b", database_url=f"sqlite:///{tmp_path / name}")):
                    pass


HUB = """
import asyncio, pathlib
from hub import config, service
asyncio.run(service.run(config.HubConfig(hub_id={name!r}, listen="127.0.0.1:{grpc}", http_listen="127.0.0.1:{http}",
    data_dir=pathlib.Path({data!r}), database_url={url!r}, artifacts_url={files!r},
    insecure=True, heartbeat_interval_s=0.5, lease_s=4)))
"""


@pytest.mark.integration
async def test_a_hub_that_is_killed_loses_nothing(tmp_path: Path, url: str) -> None:
    (tmp_path / "files").mkdir()
    grpc_port, http_port = free_port(), free_port()
    about = {"name": "dies", "grpc": grpc_port, "http": http_port, "data": str(tmp_path / "dies"), "url": url}
    code = HUB.format(**about, files=(tmp_path / "files").as_uri())
    reconnect = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    with process(python(code), tmp_path / "hub.log") as dying:
        wait_until_ready(f"http://127.0.0.1:{http_port}/readyz", dying)
        async with one_hub(tmp_path, "lives", url, lease_s=4.0) as (hub, _):
            target = f"127.0.0.1:{grpc_port},{hub.grpc_address}"
            lines = [Line(target, reconnect) for _ in range(3)]
            caller, nodes = Caller(lines[0]), [Roaming(line, f"n{number}") for number, line in enumerate(lines[1:])]
            working = [asyncio.create_task(node.work()) for node in nodes]
            for data in (JPEG, WAV):
                await until_answered(lambda data=data: caller.upload(data))
            acknowledged = []
            for number in range(60):
                if number == 20:
                    dying.kill()
                acknowledged.append((await roaming(lines[0], lambda number=number: caller.submit(f"k{number}"))).job_id)
            jobs = [await asyncio.wait_for(roaming(lines[0], lambda i=i: caller.ended(i)), 60) for i in acknowledged]
            for task in working:
                task.cancel()
            await asyncio.wait(working)
            shown = (await caller.admin.ListNodes(admin_pb.ListNodesRequest())).nodes
            for line in lines:
                await line.close()
    assert len(set(acknowledged)) == 60
    assert all(job.state == jobs_pb2.JOB_STATE_SUCCEEDED for job in jobs)
    assert {node.hub_id for node in shown} <= {"lives", ""}


@pytest.mark.integration
async def test_a_hub_whose_name_another_has_taken_stops(tmp_path: Path, url: str) -> None:
    http_port = free_port()
    about = {"name": "a", "grpc": free_port(), "http": http_port, "data": str(tmp_path / "a"), "url": url}
    with process(python(HUB.format(**about, files="")), tmp_path / "hub.log") as hub:
        wait_until_ready(f"http://127.0.0.1:{http_port}/readyz", hub)
        database = sa.create_engine(url)
        with database.begin() as connection:
            connection.exec_driver_sql("UPDATE hubs SET life = 'another'")
        database.dispose()
        assert hub.running
        await asyncio.to_thread(hub.running.wait, 60)
    assert "is borne by another hub now" in (tmp_path / "hub.log").read_text()


async def test_hubs_outlive_their_database(tmp_path: Path) -> None:
    with postgres.cluster() as cluster:
        url, patient = cluster.database(), {"heartbeat_interval_s": 10.0}
        async with one_hub(tmp_path, "a", url, **patient) as (_, a), one_hub(tmp_path, "b", url, **patient) as (_, b):
            caller, agent = Caller(a), Agent(b)
            await agent.join()
            job = await caller.submit_new("k1")
            ref = (await agent.hear("assignment")).assignment.ref
            cluster.stop(signal.SIGQUIT)
            for call in (caller.submit("k2"), caller.get(job.job_id), caller.upload(JPEG)):
                await refused(call, grpc.StatusCode.UNAVAILABLE)
            await refused(caller.admin.ListNodes(admin_pb.ListNodesRequest()), grpc.StatusCode.UNAVAILABLE)
            agent.say(started=fleet_pb.AttemptStarted(ref=ref))
            cluster.start()
            assert (await agent.render(ref)).verdict == fleet_pb.RESULT_VERDICT_COMMITTED
            assert (await caller.ended(job.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED
            second = await caller.submit("k2")
            assert (await agent.hear("assignment")).assignment.ref.job_id == second.job_id


async def roaming(line: Line, call):
    """Repeat a call at the other hub until one answers."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            line.move_on()
            await asyncio.sleep(0.05)


class Roaming(Node):
    """An agent that goes to the other hub when its session ends."""

    def __init__(self, line: Line, name: str) -> None:
        super().__init__(line, name)  # type: ignore[arg-type]
        self.line = line

    async def listen(self) -> None:
        try:
            await super().listen()
        finally:
            self.line.move_on()
