"""The SQL store carries out what the decisions want, conditionally, exactly as the memory store does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.artifacts.depot import Stored
from hub.core import instructions as do
from hub.core.faults import Failure, Fault
from hub.core.instructions import Verdict
from hub.core.jobs import Ref, Requirement, State
from hub.core.tenants import EVERYBODY, Tenant
from hub.store import commits, hubs, records
from hub.store.artifacts import KnownArtifacts
from hub.store.bulletin import Bulletin
from hub.store.database import open_database
from hub.store.hubs import Greeting
from hub.store.ledger import Ledger
from hub.store.quotas import Submission
from hub.store.records import NewJob, Page
from hub.store.schema import metadata
from hub.testing import MemoryStore
from sonic.v1 import artifacts_pb2, fleet_service_pb2, jobs_pb2

ONE, TWO = (
    fleet_service_pb2.RenderedVideo(video=artifacts_pb2.Artifact(sha256=name)).SerializeToString() for name in "12"
)
BROKE = Failure(Fault.CRASH, "CRASH", "it broke")


@pytest.fixture
def database(database_url: str) -> Iterator[sa.Engine]:
    engine = open_database(database_url)
    yield engine
    engine.dispose()


def new(name: str, tenant: str = "acme", key: str = "", spec: bytes = b"") -> NewJob:
    return NewJob(name, tenant, key or name, spec, Requirement("warp", ""), 0, b"")


def add(database: sa.Engine, *jobs: NewJob) -> None:
    with database.begin() as connection:
        for job in jobs:
            records.add_job(connection, job, 1.0)


def test_migrations_make_the_schema_and_can_be_run_again(database: sa.Engine, database_url: str) -> None:
    again = open_database(database_url)
    with again.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        if again.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    again.dispose()


def test_a_repeated_key_answers_the_first_job(database: sa.Engine) -> None:
    with database.begin() as connection:
        first, created = records.add_job(connection, new("a", key="k"), 1.0)
        again, created_again = records.add_job(connection, new("b", key="k"), 2.0)
        other, created_other = records.add_job(connection, new("c", key="k", tenant="rival"), 2.0)
    assert (created, created_again, created_other) == (True, False, True)
    assert (first.row.job_id, again.row.job_id, other.row.job_id) == ("a", "a", "c")


def test_no_query_shows_another_tenants_job(database: sa.Engine) -> None:
    add(database, new("a"), new("b", tenant="rival"))
    with database.connect() as connection:
        assert records.job(connection, "acme", "b") is None
        assert [r.row.job_id for r in records.page(connection, "acme", Page(10))] == ["a"]
        assert len(records.page(connection, EVERYBODY, Page(10))) == 2


def test_a_few_jobs_are_found_without_looking_at_all_others_of_their_tenant(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'hub.db'}")
    add(database, *(new(f"job{number}") for number in range(3000)))
    hundreds_of_steps = 0

    def count() -> None:
        nonlocal hundreds_of_steps
        hundreds_of_steps += 1

    with database.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(count, 100)
        found = records.jobs_of(connection, [(Tenant("acme"), f"job{number}") for number in range(6)])
        driver.set_progress_handler(None, 0)
    assert len(found) == 6
    assert hundreds_of_steps < 30
    database.dispose()


def test_pages_show_every_job_once_while_jobs_come_in(database: sa.Engine) -> None:
    add(database, *(new(f"j{number}") for number in range(25)))
    seen: list[str] = []
    before = None
    while True:
        with database.connect() as connection:
            page = records.page(connection, "acme", Page(10, before_sequence=before))
        if not page:
            break
        seen += [record.row.job_id for record in page]
        before = page[-1].row.sequence
        add(database, new(f"late{len(seen)}"))
    assert seen == [f"j{number}" for number in reversed(range(25))]


WRITES = st.one_of(
    st.builds(lambda n, node: ("assign", n, node), st.integers(1, 3), st.sampled_from(["n1", "n2"])),
    st.builds(lambda n: ("running", n, ""), st.integers(1, 3)),
    st.builds(lambda n: ("requeue", n, ""), st.integers(1, 3)),
    st.builds(lambda n, node: ("succeed", n, node), st.integers(1, 3), st.sampled_from(["n1", "n2"])),
    st.builds(lambda n: ("fail", n, ""), st.integers(1, 3)),
    st.just(("cancel", 0, "")),
)


def write(kind: str, attempt: int, node: str) -> do.Write:
    ref = Ref("a", attempt)
    match kind:
        case "assign":
            return do.Assign(ref, node, "eu", 0, "because", ())
        case "running":
            return do.MarkRunning(ref, node)
        case "requeue":
            return do.Requeue(ref, BROKE, attempt)
        case "succeed":
            return do.CommitSuccess(ref, node, b"")
        case "fail":
            return do.CommitFailure(ref, BROKE)
        case _:
            return do.CommitCancel("a")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(WRITES, max_size=14))
def test_sql_and_memory_agree_on_every_write(database: sa.Engine, writes: list[tuple[str, int, str]]) -> None:
    memory = MemoryStore()
    with database.connect() as connection, connection.begin() as transaction:
        record, _ = records.add_job(connection, new("a"), 1.0)
        memory.add(replace(record.live(0.0, {})))
        for kind, attempt, node in writes:
            wanted = write(kind, attempt, node)
            assert commits.apply(connection, wanted, 2.0, "h1") == memory.apply(wanted)
            stored = records.job(connection, EVERYBODY, "a")
            assert stored
            held = memory.rows["a"].job
            assert (stored.state, stored.row.attempt, stored.row.tries) == (held.state, held.attempt, held.tries)
        transaction.rollback()


def test_a_result_that_came_too_late_changes_nothing(database: sa.Engine) -> None:
    add(database, new("a"))
    first, second = Ref("a", 1), Ref("a", 2)
    with database.begin() as connection:
        commits.apply(connection, do.Assign(first, "n1", "eu", 0, "because", ()), 2.0, "h1")
        commits.apply(connection, do.Requeue(first, BROKE, 1), 3.0, "h1")
        commits.apply(connection, do.Assign(second, "n2", "eu", 0, "because", ()), 4.0, "h1")
        won = commits.apply(connection, do.CommitSuccess(first, "n1", ONE), 5.0, "h1")
        late = commits.apply(connection, do.CommitSuccess(second, "n2", TWO), 6.0, "h1")
        repeat = commits.apply(connection, do.CommitSuccess(first, "n1", TWO), 7.0, "h1")
        forged = commits.apply(connection, do.CommitSuccess(second, "n1", b"four"), 8.0, "h1")
        record = records.job(connection, "acme", "a")
    assert [o.verdict for o in (won, late, repeat, forged)] == [
        Verdict.COMMITTED, Verdict.SUPERSEDED, Verdict.COMMITTED, Verdict.UNKNOWN,
    ]  # fmt: skip
    assert record
    assert (record.state, record.row.result, record.row.ended_at_s) == (State.SUCCEEDED, ONE, 5.0)
    assert [attempt.ended_at_s for attempt in record.attempts] == [5.0, None]


def test_a_hub_that_starts_finds_every_job_that_has_not_ended(database: sa.Engine) -> None:
    add(database, new("a"), new("b"), new("c"))
    with database.begin() as connection:
        commits.apply(connection, do.Assign(Ref("b", 1), "n1", "eu", 3, "because", ()), 2.0, "h1")
        commits.apply(connection, do.CommitCancel("c"), 2.0, "h1")
        live = {job.job_id: job for job in records.live_jobs(connection, 0.0)}
    assert set(live) == {"a", "b"}
    assert (live["b"].state, live["b"].node_id, live["b"].slot, live["b"].attempt) == (State.ASSIGNED, "n1", 3, 1)


@pytest.mark.parametrize("said_s", [-5.0, -math.inf, math.inf, math.nan, 1e308, 601.0])
def test_no_length_of_a_recording_that_cannot_be_is_learned(database: sa.Engine, said_s: float) -> None:
    spec = jobs_pb2.JobSpec(portrait_sha256="p", voice_sha256="v").SerializeToString()
    add(database, new("a", spec=spec))
    with database.begin() as connection:
        records.add_artifact(connection, Tenant("acme"), Stored("p", 10, "image/png"), 1.0)
        records.add_artifact(connection, Tenant("acme"), Stored("v", 10, "audio/mpeg"), 1.0)
    ledger = Ledger(database, KnownArtifacts(database), Bulletin(database, ""), "")
    report = jobs_pb2.RenderReport(audio_seconds=said_s)
    result = fleet_service_pb2.RenderedVideo(report=report).SerializeToString()
    ref = Ref("a", 1)
    ledger.write([do.Assign(ref, "n1", "eu", 0, "")], [], 1.0)
    ledger.write([do.CommitSuccess(ref, "n1", result)], [], 1.0)
    with database.connect() as connection:
        assert records.artifacts_of(connection, Tenant("acme"), ["v"])["v"].duration_s is None


def test_a_hub_takes_a_stored_length_that_cannot_be_for_an_unknown_one(database: sa.Engine) -> None:
    """Such rows are there from before, and no hub that reads one may die of it."""
    lengths_s = {"a": -5.0, "b": -math.inf, "c": 1e308, "d": 12.5}
    add(database, *(replace(new(name), video_s=video_s) for name, video_s in lengths_s.items()))
    with database.connect() as connection:
        found = {job.job_id: job.work.video_s for job in records.live_jobs(connection, 0.0)}
    assert found == {"a": 0.0, "b": 0.0, "c": 0.0, "d": 12.5}


def test_a_drain_outlives_the_hub(database: sa.Engine) -> None:
    with database.begin() as connection:
        assert not records.set_drain(connection, "n1", True)
        hubs.begin_sessions(connection, [Greeting("n1", "s1", "eu", "0.1")], "a", 1.0)
        assert records.set_drain(connection, "n1", True)
        hubs.begin_sessions(connection, [Greeting("n1", "s2", "us", "0.2")], "a", 2.0)
    with database.connect() as connection:
        (node,) = records.known_nodes(connection)
        assert (node.region, node.drain_wanted, node.online) == ("us", True, False)


def test_a_draft_is_seen_by_nobody_before_its_commit_and_waits_for_no_other_writer(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'hub.db'}")
    ledger = Ledger(database, KnownArtifacts(database), Bulletin(database, ""), "")
    with database.begin() as other:
        records.add_job(other, new("others"), 1.0)
        assert ledger.draft([], [Submission([new("ours")])], 2.0, durable=True) is None
    draft = ledger.draft([], [Submission([new("ours")])], 2.0, durable=True)
    assert draft
    with database.connect() as reader:
        assert not records.job(reader, EVERYBODY, "ours")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(draft.commit).result()
    with database.connect() as reader:
        assert records.job(reader, EVERYBODY, "ours")
    ledger.close()
    database.dispose()
