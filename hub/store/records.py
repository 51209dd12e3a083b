"""Reading and adding rows. Whatever a caller asks for is bound to a tenant here; only operators' calls pass None."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hub.core.jobs import Job, Requirement, State
from hub.core.nodes import Node
from hub.store.database import insert_ignoring
from hub.store.schema import artifacts, attempts, jobs, nodes

_LIVE = (State.QUEUED, State.ASSIGNED, State.RUNNING)
_NEWEST = sa.and_(attempts.c.job_id == jobs.c.job_id, attempts.c.attempt == jobs.c.attempt)


@dataclass(frozen=True)
class NewJob:
    """A submission that has passed every check."""

    job_id: str
    tenant: str
    idempotency_key: str
    spec: bytes  # JobSpec, complete, serialized deterministically
    requirement: Requirement
    priority: int
    cautions: bytes  # RenderReport


@dataclass(frozen=True)
class JobRecord:
    """A stored job with its attempts; the fields are the columns of `schema.jobs` and `schema.attempts`."""

    row: sa.Row[Any]
    attempts: list[sa.Row[Any]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return State(self.row.state)

    def live(self) -> Job:
        """The job as the decisions see it."""
        newest = next((a for a in self.attempts if a.attempt == self.row.attempt), None)
        return Job(
            job_id=self.row.job_id,
            tenant=self.row.tenant,
            requirement=Requirement(self.row.engine, self.row.model_version),
            priority=self.row.priority,
            submitted_at_s=self.row.submitted_at_s,
            sequence=self.row.sequence,
            state=self.state,
            attempt=self.row.attempt,
            tries=self.row.tries,
            node_id=newest.node_id if newest else "",
            slot=newest.slot if newest else -1,
        )


@dataclass(frozen=True)
class Page:
    """Which jobs, the newest first. `before_sequence` is where the page before ended."""

    size: int
    before_sequence: int | None = None
    states: tuple[State, ...] = ()
    submitted_after_s: float | None = None
    submitted_before_s: float | None = None


def add_job(connection: sa.Connection, new: NewJob, now_s: float) -> tuple[JobRecord, bool]:
    """Store a job unless its tenant has used the idempotency key before. Returns the job and whether it is new."""
    values = {
        "job_id": new.job_id,
        "tenant": new.tenant,
        "idempotency_key": new.idempotency_key,
        "spec": new.spec,
        "engine": new.requirement.engine,
        "model_version": new.requirement.model_version,
        "priority": new.priority,
        "state": State.QUEUED,
        "revision": 1,
        "attempt": 0,
        "tries": 0,
        "submitted_at_s": now_s,
        "cautions": new.cautions,
    }
    created = connection.execute(insert_ignoring(connection.engine, jobs), values).rowcount == 1
    where = (jobs.c.tenant == new.tenant, jobs.c.idempotency_key == new.idempotency_key)
    row = connection.execute(sa.select(jobs).where(*where)).one()
    return with_attempts(connection, [row])[0], created


def job(connection: sa.Connection, tenant: str | None, job_id: str) -> JobRecord | None:
    """One job of the tenant, or None."""
    row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id, *_of(tenant))).one_or_none()
    return with_attempts(connection, [row])[0] if row else None


def has_jobs(connection: sa.Connection, tenant: str) -> bool:
    """Whether the tenant has ever had a job here."""
    return connection.execute(sa.select(jobs.c.sequence).where(jobs.c.tenant == tenant).limit(1)).first() is not None


def page(connection: sa.Connection, tenant: str | None, wanted: Page) -> list[JobRecord]:
    """At most `wanted.size` jobs of the tenant."""
    query = sa.select(jobs).where(*_of(tenant)).order_by(jobs.c.sequence.desc()).limit(wanted.size)
    if wanted.before_sequence is not None:
        query = query.where(jobs.c.sequence < wanted.before_sequence)
    if wanted.states:
        query = query.where(jobs.c.state.in_(wanted.states))
    if wanted.submitted_after_s is not None:
        query = query.where(jobs.c.submitted_at_s > wanted.submitted_after_s)
    if wanted.submitted_before_s is not None:
        query = query.where(jobs.c.submitted_at_s < wanted.submitted_before_s)
    return with_attempts(connection, connection.execute(query).all())


def live_jobs(connection: sa.Connection, job_ids: Collection[str] | None = None) -> list[Job]:
    """Every job that has not ended, or those of them that are named, in the order of submission."""
    wanted = [jobs.c.state.in_(_LIVE)] + ([] if job_ids is None else [jobs.c.job_id.in_(job_ids)])
    rows = connection.execute(sa.select(jobs).where(*wanted).order_by(jobs.c.sequence)).all()
    tries = connection.execute(sa.select(attempts).join(jobs, _NEWEST).where(*wanted)).all()
    by_job = {row.job_id: [row] for row in tries}
    return [JobRecord(row, by_job.get(row.job_id, [])).live() for row in rows]


def standings(connection: sa.Connection) -> dict[str, tuple[State, int, int]]:
    """State, attempt and tries of every job that has not ended."""
    query = sa.select(jobs.c.job_id, jobs.c.state, jobs.c.attempt, jobs.c.tries).where(jobs.c.state.in_(_LIVE))
    return {job_id: (State(state), attempt, tries) for job_id, state, attempt, tries in connection.execute(query)}


def held_by(connection: sa.Connection, node_id: str) -> list[str]:
    """The jobs whose newest attempt a node has."""
    held = jobs.c.state.in_((State.ASSIGNED, State.RUNNING))
    query = sa.select(jobs.c.job_id).join(attempts, _NEWEST).where(held, attempts.c.node_id == node_id)
    return list(connection.execute(query).scalars())


def with_attempts(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[JobRecord]:
    """Jobs with their attempts, in one query for all."""
    records = {row.job_id: JobRecord(row) for row in rows}
    query = sa.select(attempts).where(attempts.c.job_id.in_(records)).order_by(attempts.c.attempt)
    for attempt in connection.execute(query) if records else ():
        records[attempt.job_id].attempts.append(attempt)
    return list(records.values())


def attempt(connection: sa.Connection, job_id: str, number: int, node_id: str) -> sa.Row[Any] | None:
    """The attempt with its job's tenant and spec, if it was given to that node."""
    query = sa.select(attempts, jobs.c.tenant, jobs.c.spec, jobs.c.state, jobs.c.submitted_at_s).join(jobs).where(
        attempts.c.job_id == job_id, attempts.c.attempt == number, attempts.c.node_id == node_id
    )  # fmt: skip
    return connection.execute(query).one_or_none()


def add_artifact(connection: sa.Connection, tenant: str, sha256: str, size: int, media_type: str, now_s: float) -> None:
    """Note a stored artifact; a repeat changes nothing."""
    values = {"tenant": tenant, "sha256": sha256, "size_bytes": size, "media_type": media_type, "stored_at_s": now_s}
    connection.execute(insert_ignoring(connection.engine, artifacts), values)


def artifact(connection: sa.Connection, tenant: str, sha256: str) -> sa.Row[Any] | None:
    """One artifact of the tenant, or None."""
    query = sa.select(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.sha256 == sha256)
    return connection.execute(query).one_or_none()


def artifacts_of(connection: sa.Connection, tenant: str, hashes: Iterable[str]) -> dict[str, sa.Row[Any]]:
    """Those of the named artifacts that the tenant has, by hash."""
    query = sa.select(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.sha256.in_(set(hashes)))
    return {row.sha256: row for row in connection.execute(query)}


def note_node(
    connection: sa.Connection,
    node_id: str,
    region: str,
    agent_version: str,
    now_s: float,
    hub_id: str = "",
    session_id: str = "",
) -> None:
    """A node has said Hello; the newest session is the one that counts, whichever hub holds it."""
    fresh = {"region": region, "agent_version": agent_version[:64], "last_heard_at_s": now_s}
    fresh |= {"hub_id": hub_id, "session_id": session_id}
    added = {"node_id": node_id, "drain_wanted": False, "joined_at_s": now_s}
    if not connection.execute(insert_ignoring(connection.engine, nodes), fresh | added).rowcount:
        connection.execute(sa.update(nodes).where(nodes.c.node_id == node_id).values(**fresh))


def node_heard(connection: sa.Connection, node_id: str, now_s: float) -> None:
    """When a node was last heard of; kept when its session ends."""
    connection.execute(sa.update(nodes).where(nodes.c.node_id == node_id).values(last_heard_at_s=now_s))


def set_drain(connection: sa.Connection, node_id: str, drain: bool) -> bool:
    """Store an operator's wish. False when there is no such node."""
    statement = sa.update(nodes).where(nodes.c.node_id == node_id).values(drain_wanted=drain)
    return connection.execute(statement).rowcount == 1


def node_rows(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Every node ever seen, by region and name."""
    return list(connection.execute(sa.select(nodes).order_by(nodes.c.region, nodes.c.node_id)).all())


def known_nodes(connection: sa.Connection) -> list[Node]:
    """Every node ever seen, as the decisions see it: offline until it says Hello."""
    return [Node(row.node_id, row.region, drain_wanted=row.drain_wanted) for row in node_rows(connection)]


def _of(tenant: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if tenant is None else (jobs.c.tenant == tenant,)
