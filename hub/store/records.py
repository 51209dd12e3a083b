"""Reading and adding rows.

Whatever is asked for a caller takes whose rows it may see, without a default: a Tenant, which only the guard and the
store make, or EVERYBODY, for operators. The rest is for the hub's own decisions and for nodes, and answers no caller.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from hub import wire
from hub.artifacts import durations
from hub.artifacts.depot import Stored
from hub.core.jobs import Input, Job, RegionRules, Requirement, State, Work
from hub.core.nodes import Node
from hub.core.tenants import EVERYBODY, Everybody, Tenant
from hub.store.database import insert_ignoring, insert_returning
from hub.store.schema import artifacts, attempts, decisions, jobs, nodes
from sonic.v1 import jobs_pb2

OwnedJob = tuple[Tenant, str]
"""The tenant that asks, and the job's id."""
_HASHES_AT_A_TIME = 500

_JOBS = sa.select(jobs).where(jobs.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
_ATTEMPTS_BY_JOB = (
    sa.select(attempts)
    .where(attempts.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .order_by(attempts.c.attempt)
)
# An IN takes as long to prepare as a query of one job takes altogether, and most are of one.
_JOB_OF = sa.select(jobs).where(jobs.c.job_id == sa.bindparam("of_job"), jobs.c.tenant == sa.bindparam("owner"))
_ATTEMPTS_OF_JOB = sa.select(attempts).where(attempts.c.job_id == sa.bindparam("of_job")).order_by(attempts.c.attempt)

_KNOWN_KEYS = sa.select(jobs.c.idempotency_key).where(
    jobs.c.tenant == sa.bindparam("of_tenant"), jobs.c.idempotency_key.in_(sa.bindparam("keys", expanding=True))
)
_SPECS = sa.select(jobs.c.job_id, jobs.c.tenant, jobs.c.spec, jobs.c.submitted_at_s, jobs.c.video_s).where(
    jobs.c.job_id.in_(sa.bindparam("job_ids", expanding=True))
)
_LIVE = (State.QUEUED, State.ASSIGNED, State.RUNNING)
_NEWEST = sa.and_(attempts.c.job_id == jobs.c.job_id, attempts.c.attempt == jobs.c.attempt)


@dataclass(frozen=True)
class NewJob:
    """A submission that has passed every check."""

    job_id: str
    tenant: Tenant
    idempotency_key: str
    spec: bytes  # JobSpec, complete, serialized deterministically
    requirement: Requirement
    priority: int
    cautions: bytes = b""  # RenderReport
    video_s: float = 0.0  # as guessed; 0 when nothing can be told
    sizes: Mapping[str, int] = field(default_factory=dict)  # of its inputs, in bytes, by hash

    def live(self, clock_offset_s: float) -> Job:
        """The job as the decisions see it before it is stored."""
        return _live(self.job_id, self.tenant, self.requirement, self.priority, self.spec, self.video_s, self.sizes,
                     clock_offset_s)  # fmt: skip


@dataclass(frozen=True)
class JobRecord:
    """A stored job with its attempts; the fields are the columns of `schema.jobs` and `schema.attempts`."""

    row: sa.Row[Any]
    attempts: list[sa.Row[Any]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return State(self.row.state)

    def live(self, clock_offset_s: float, sizes: Mapping[str, int]) -> Job:
        """The job as the decisions see it; their clock is `clock_offset_s` ahead of the wall's. `sizes` of inputs."""
        row = self.row
        newest = next((a for a in self.attempts if a.attempt == row.attempt), None)
        wanted = Requirement(row.engine, row.model_version)
        made = _live(row.job_id, row.tenant, wanted, row.priority, row.spec, row.video_s or 0.0, sizes, clock_offset_s)
        made.submitted_at_s, made.sequence = row.submitted_at_s, row.sequence
        made.state, made.attempt, made.tries = self.state, row.attempt, row.tries
        made.node_id, made.slot = (newest.node_id, newest.slot) if newest else ("", -1)
        return made


def _live(
    job_id: str,
    tenant: str,
    wanted: Requirement,
    priority: int,
    serialized: bytes,
    video_s: float,
    sizes: Mapping[str, int],
    clock_offset_s: float,
) -> Job:
    spec = jobs_pb2.JobSpec.FromString(serialized)
    parameters, regions = spec.parameters, spec.regions
    length_s = wire.sane(video_s, durations.LONGEST_S)
    return Job(
        job_id=job_id,
        tenant=tenant,
        requirement=wanted,
        priority=priority,
        submitted_at_s=0.0,
        sequence=0,
        work=Work(length_s, parameters.min_resolution, parameters.inference_steps),
        inputs=tuple(Input(sha256, sizes.get(sha256, 0)) for sha256 in (spec.portrait_sha256, spec.voice_sha256)),
        regions=RegionRules(frozenset(regions.prefer), frozenset(regions.require), frozenset(regions.avoid)),
        deadline_s=seconds_of(spec.deadline) + clock_offset_s if spec.HasField("deadline") else math.inf,
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
    return add_jobs(connection, [new], now_s)[0]


def add_jobs(connection: sa.Connection, new: Sequence[NewJob], now_s: float) -> list[tuple[JobRecord, bool]]:
    """`add_job` for each; a key that comes twice makes the first the job of both."""
    adding = insert_returning(connection.engine, jobs)
    added = connection.execute(adding, [_job_values(job, now_s) for job in new]).all() if new else ()
    created = {row.job_id for row in added}
    found = {(row.tenant, row.idempotency_key): JobRecord(row) for row in added}
    for job in new:
        if (job.tenant, job.idempotency_key) not in found:
            where = (jobs.c.tenant == job.tenant, jobs.c.idempotency_key == job.idempotency_key)
            rows = connection.execute(sa.select(jobs).where(*where)).all()
            found[job.tenant, job.idempotency_key] = with_attempts(connection, rows)[0]
    return [(found[job.tenant, job.idempotency_key], job.job_id in created) for job in new]


def jobs_of(connection: sa.Connection, keys: Collection[OwnedJob]) -> dict[OwnedJob, JobRecord]:
    """Those of the jobs that exist, each asked for with the tenant that asks."""
    wanted = set(keys)
    if len(wanted) == 1:
        (key,) = wanted
        found = connection.execute(_JOB_OF, {"owner": key[0], "of_job": key[1]}).all()
        return dict(zip([key], with_attempts(connection, found), strict=False))
    asked = {"job_ids": [job_id for _, job_id in wanted]}  # with the tenants SQLite would look through all of theirs
    rows = [row for row in connection.execute(_JOBS, asked) if (row.tenant, row.job_id) in wanted]
    return {(record.row.tenant, record.row.job_id): record for record in with_attempts(connection, rows)}


def specs(connection: sa.Connection, job_ids: Sequence[str]) -> list[sa.Row[Any]]:
    """What nodes are told of these jobs."""
    return list(connection.execute(_SPECS, {"job_ids": job_ids}))


def _job_values(new: NewJob, now_s: float) -> dict[str, Any]:
    return {
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
        "video_s": new.video_s or None,
    }


def job(connection: sa.Connection, tenant: Tenant | Everybody, job_id: str) -> JobRecord | None:
    """One job of the tenant, or None."""
    row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id, *_of(tenant))).one_or_none()
    return with_attempts(connection, [row])[0] if row else None


def has_jobs(connection: sa.Connection, tenant: str) -> bool:
    """Whether the tenant has ever had a job here."""
    return connection.execute(sa.select(jobs.c.sequence).where(jobs.c.tenant == tenant).limit(1)).first() is not None


def page(connection: sa.Connection, tenant: Tenant | Everybody, wanted: Page) -> list[JobRecord]:
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


def known_keys(connection: sa.Connection, keys: Iterable[tuple[Tenant, str]]) -> set[tuple[Tenant, str]]:
    """Those of the idempotency keys, each with its tenant, that have been used."""
    by_tenant: dict[Tenant, list[str]] = {}
    for tenant, key in keys:
        by_tenant.setdefault(tenant, []).append(key)
    return {
        (tenant, key)
        for tenant, of_tenant in by_tenant.items()
        for key in connection.execute(_KNOWN_KEYS, {"of_tenant": tenant, "keys": of_tenant}).scalars()
    }


def live_jobs(connection: sa.Connection, clock_offset_s: float, job_ids: Collection[str] | None = None) -> list[Job]:
    """Every job that has not ended, or those of them that are named, in the order of submission."""
    wanted = [jobs.c.state.in_(_LIVE)] + ([] if job_ids is None else [jobs.c.job_id.in_(job_ids)])
    rows = connection.execute(sa.select(jobs).where(*wanted).order_by(jobs.c.sequence)).all()
    tries = connection.execute(sa.select(attempts).join(jobs, _NEWEST).where(*wanted)).all()
    by_job = {row.job_id: [row] for row in tries}
    sizes = _sizes(connection, rows)
    return [JobRecord(row, by_job.get(row.job_id, [])).live(clock_offset_s, sizes) for row in rows]


def _sizes(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> dict[str, int]:
    """The sizes of the inputs of jobs; a hash has the same with every tenant."""
    specs = [jobs_pb2.JobSpec.FromString(row.spec) for row in rows]
    hashes = sorted({sha256 for spec in specs for sha256 in (spec.portrait_sha256, spec.voice_sha256)})
    found: dict[str, int] = {}
    for start in range(0, len(hashes), _HASHES_AT_A_TIME):
        some = hashes[start : start + _HASHES_AT_A_TIME]
        query = sa.select(artifacts.c.sha256, artifacts.c.size_bytes).where(artifacts.c.sha256.in_(some))
        found |= {row.sha256: row.size_bytes for row in connection.execute(query)}
    return found


def standings(connection: sa.Connection) -> dict[str, tuple[State, int, int]]:
    """State, attempt and tries of every job that has not ended."""
    query = sa.select(jobs.c.job_id, jobs.c.state, jobs.c.attempt, jobs.c.tries).where(jobs.c.state.in_(_LIVE))
    return {job_id: (State(state), attempt, tries) for job_id, state, attempt, tries in connection.execute(query)}


def held_by(connection: sa.Connection, node_ids: Collection[str]) -> dict[str, list[str]]:
    """The jobs whose newest attempt a node has, by node."""
    held = jobs.c.state.in_((State.ASSIGNED, State.RUNNING))
    query = sa.select(attempts.c.node_id, jobs.c.job_id).join(attempts, _NEWEST)
    found: dict[str, list[str]] = {node_id: [] for node_id in node_ids}
    for node_id, job_id in connection.execute(query.where(held, attempts.c.node_id.in_(node_ids))):
        found[node_id].append(job_id)
    return found


def with_attempts(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[JobRecord]:
    """Jobs with their attempts, in one query for all."""
    records = {row.job_id: JobRecord(row) for row in rows}
    tried = [row.job_id for row in rows if row.attempt]
    asked = (_ATTEMPTS_OF_JOB, {"of_job": tried[0]}) if len(tried) == 1 else (_ATTEMPTS_BY_JOB, {"job_ids": tried})
    for attempt in connection.execute(*asked) if tried else ():
        records[attempt.job_id].attempts.append(attempt)
    return list(records.values())


def attempt(connection: sa.Connection, job_id: str, number: int, node_id: str) -> sa.Row[Any] | None:
    """The attempt with its job's tenant, spec, state, winner and newest attempt, if it was given to that node."""
    of_job = (jobs.c.tenant, jobs.c.spec, jobs.c.state, jobs.c.won_by, jobs.c.attempt.label("newest"))
    query = sa.select(attempts, *of_job).join(jobs).where(
        attempts.c.job_id == job_id, attempts.c.attempt == number, attempts.c.node_id == node_id
    )  # fmt: skip
    return connection.execute(query).one_or_none()


def add_artifact(connection: sa.Connection, tenant: Tenant, stored: Stored, now_s: float) -> None:
    """Note a stored artifact; a repeat changes nothing."""
    values = {"tenant": tenant, "stored_at_s": now_s} | asdict(stored)
    connection.execute(insert_ignoring(connection.engine, artifacts), values)


def artifact(connection: sa.Connection, tenant: Tenant, sha256: str) -> sa.Row[Any] | None:
    """One artifact of the tenant, or None."""
    query = sa.select(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.sha256 == sha256)
    return connection.execute(query).one_or_none()


def artifacts_of(connection: sa.Connection, tenant: Tenant, hashes: Iterable[str]) -> dict[str, sa.Row[Any]]:
    """Those of the named artifacts that the tenant has, by hash."""
    query = sa.select(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.sha256.in_(set(hashes)))
    return {row.sha256: row for row in connection.execute(query)}


def nodes_that_left(connection: sa.Connection) -> set[str]:
    """The nodes that nobody expects back."""
    return set(connection.execute(sa.select(nodes.c.node_id).where(nodes.c.left_at_s.is_not(None))).scalars())


def decisions_about(connection: sa.Connection, node_id: str, at_most: int) -> list[bytes]:
    """What was decided about a node, or about all of them, the newest first."""
    query = sa.select(decisions.c.message).where(decisions.c.node_id.in_((node_id, "")))
    return list(connection.execute(query.order_by(decisions.c.sequence.desc()).limit(at_most)).scalars())


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


def learn_duration(connection: sa.Connection, tenant: Tenant, sha256: str, duration_s: float) -> None:
    """A render has told how long a recording is."""
    where = (artifacts.c.tenant == tenant, artifacts.c.sha256 == sha256)
    connection.execute(sa.update(artifacts).where(*where).values(duration_s=duration_s))


def seconds_of(when: Timestamp) -> float:
    """Seconds since the epoch."""
    return when.seconds + when.nanos / 1e9


def _of(tenant: Tenant | Everybody) -> tuple[sa.ColumnElement[bool], ...]:
    return () if tenant is EVERYBODY else (jobs.c.tenant == tenant,)
