"""Hubs are upgraded one at a time: old code works on the new schema, new code on what old code goes on writing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa

from hub.config import InvalidConfig
from hub.core.jobs import State
from hub.core.tenants import EVERYBODY
from hub.service import serving
from hub.store import commits, hubs, records
from hub.store.database import migrate, open_database
from hub.store.hubs import Greeting
from hub.store.records import Page
from sonic.v1 import jobs_pb2
from tests.processes import free_port, process, python, wait_until_ready

from .conftest import config
from .peers import JPEG, WAV, Agent, Caller
from .test_kill import Node, until_answered
from .test_store import add, new

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "4552c4c"  # the version before the newest schema

# As hubs of schema 0001 say it.
OLD_JOB = """
INSERT INTO jobs (job_id, tenant, idempotency_key, spec, engine, model_version, priority, state, revision, attempt,
    tries, submitted_at_s, cautions)
VALUES (:job_id, 'acme', :job_id, :spec, 'warp', '', 0, 'queued', 1, 0, 0, 1.0, :spec)
"""
OLD_NODE = """
INSERT INTO nodes (region, agent_version, last_heard_at_s, node_id, drain_wanted, joined_at_s)
VALUES ('eu', '0.1', 1.0, :node_id, false, 1.0)
"""
OLD_ASSIGN = "UPDATE jobs SET state='assigned', revision=revision + 1, attempt=1 WHERE job_id=:job_id AND attempt=0"
OLD_ATTEMPT = """
INSERT INTO attempts (job_id, attempt, node_id, region, slot, placement_reason, assigned_at_s)
VALUES (:job_id, 1, :node_id, 'eu', 0, 'free slot', 2.0)
"""


def write_as_before(database: sa.Engine, job_id: str, node_id: str) -> None:
    with database.begin() as connection:
        named = {"job_id": job_id, "node_id": node_id, "spec": b""}
        for statement in (OLD_JOB, OLD_NODE, OLD_ASSIGN, OLD_ATTEMPT):
            connection.execute(sa.text(statement), named)


def test_new_code_opens_what_old_code_has_written_and_goes_on_writing(database_url: str) -> None:
    old = sa.create_engine(database_url)
    migrate(old, "0001")
    write_as_before(old, "a", "n1")
    database = open_database(database_url)
    write_as_before(old, "b", "n2")
    with database.connect() as connection:
        live = records.live_jobs(connection, 0.0)
        assert [(job.job_id, job.state, job.node_id) for job in live] == [
            ("a", State.ASSIGNED, "n1"),
            ("b", State.ASSIGNED, "n2"),
        ]
        assert [node.node_id for node in records.known_nodes(connection)] == ["n1", "n2"]
    for engine in (old, database):
        engine.dispose()


def test_a_database_of_the_next_version_is_served(database_url: str) -> None:
    database = open_database(database_url)
    add(database, new("a"))
    with database.begin() as connection:  # what the next migration may do: add
        connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN later DOUBLE PRECISION")
        connection.exec_driver_sql("ALTER TABLE nodes ADD COLUMN later VARCHAR(8) DEFAULT 'x' NOT NULL")
        connection.exec_driver_sql("CREATE TABLE laters (later_id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    again = open_database(database_url)
    add(again, new("b"))
    with again.begin() as connection:
        hubs.begin_sessions(connection, [Greeting("n1", "s1", "eu", "0.1")], "a", 1.0)
        commits.apply(connection, commits.CommitCancel("a"), 2.0, "h1")
        assert [record.row.job_id for record in records.page(connection, EVERYBODY, Page(10))] == ["b", "a"]
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0999"
    for engine in (again, database):
        engine.dispose()


def test_a_database_of_something_else_is_refused(database_url: str) -> None:
    open_database(database_url).dispose()
    foreign = sa.create_engine(database_url)
    with foreign.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'ae1027a6acf'")
    foreign.dispose()
    with pytest.raises(InvalidConfig, match="ae1027a6acf"):
        open_database(database_url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nothing", "is no URL"),
        ("mysql://here/sonic", "one of mysql"),
        ("postgresql://sonic@127.0.0.1:9/sonic", "does not answer"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(url: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match=why):
        open_database(url)


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidConfig, match=r"sonic-fleet\[postgresql\]"):
        open_database("postgresql://sonic@127.0.0.1:9/sonic")


def test_hubs_that_start_together_migrate_once(cluster) -> None:
    url = cluster.database()
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(lambda _: open_database(url), range(4)):
            engine.dispose()


OLD_HUB = """
import asyncio, pathlib, sys
sys.path.insert(0, {code!r})
from hub import config, service
assert config.__file__.startswith({code!r})
asyncio.run(service.run(config.HubConfig(hub_id="old", listen="127.0.0.1:{grpc}", http_listen="127.0.0.1:{http}",
    data_dir=pathlib.Path({data!r}), database_url={url!r}, artifacts_url={files!r},
    heartbeat_interval_s=0.5, lease_s=20)))
"""


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    archive = subprocess.run(["git", "archive", BEFORE, "hub", "sonic"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the history does not reach back to {BEFORE}")
    (tmp_path / "code").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "code"], input=archive.stdout, check=True)
    return tmp_path / "code"


@pytest.mark.integration
@pytest.mark.timeout(400)
async def test_a_hub_of_the_version_before_works_beside_this_one(cluster, tmp_path: Path, old_code: Path) -> None:
    url, grpc_port, http_port = cluster.database(), free_port(), free_port()
    files = tmp_path / "files"
    files.mkdir()
    about = {"code": str(old_code), "grpc": grpc_port, "http": http_port, "data": str(tmp_path / "old"), "url": url}
    command = python(OLD_HUB.format(**about, files=files.as_uri()))
    reconnect = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    with process(command, tmp_path / "old.log", PYTHONPATH=str(old_code)) as old_hub:
        ready = f"http://127.0.0.1:{http_port}/readyz"
        await asyncio.to_thread(wait_until_ready, ready, old_hub)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options=reconnect) as old:
            caller = Caller(old)
            for data in (JPEG, WAV):
                await caller.upload(data)
            jobs = [await caller.submit(f"before{number}") for number in range(5)]
            old_hub.kill()
            old_hub.start()
            await asyncio.to_thread(wait_until_ready, ready, old_hub)
            await until_answered(lambda: Agent(old, "n2").join())  # so that it knows the node that moves on
            working = [asyncio.create_task(Node(old, "n1").work())]
            shared = {"database_url": url, "artifacts_url": files.as_uri()}
            newer = config(tmp_path / "new", hub_id="new", heartbeat_interval_s=0.5, lease_s=20, **shared)
            async with serving(newer) as hub, grpc.aio.insecure_channel(hub.grpc_address) as channel:
                working.append(asyncio.create_task(Node(channel, "n2").work()))
                jobs += [await caller.submit(f"at-old{number}") for number in range(10)]
                jobs += [await Caller(channel).submit(f"at-new{number}") for number in range(10)]
                async with asyncio.timeout(120):
                    ended = [await Caller(channel).ended(job.job_id) for job in jobs]
                    while not any(job.attempts[-1].node_id == "n2" for job in ended):  # the other may have been quicker
                        more = [await caller.submit(f"more{len(ended)}-{number}") for number in range(5)]
                        ended += [await Caller(channel).ended(job.job_id) for job in more]
                seen = [await caller.get(job.job_id) for job in jobs]
                for task in working:
                    task.cancel()
                await asyncio.wait(working)
        assert old_hub.stop() == 0
    assert all(job.state == jobs_pb2.JOB_STATE_SUCCEEDED for job in (*ended, *seen))
    assert {job.attempts[-1].node_id for job in ended} == {"n1", "n2"}
