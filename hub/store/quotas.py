"""The limits of tenants over all hubs that share a database, kept by the transactions that would go beyond them.

Each locks the tenant until it has ended, before it locks anything else, and counts: what it then adds is known to the
next one. One hub alone needs none of it, for it knows all that there is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from hub.core.instructions import Assign, CommitCancel, CommitFailure, CommitSuccess, Requeue, Write
from hub.core.jobs import State
from hub.core.tenants import Tenant
from hub.store import commits, records
from hub.store.commits import Outcome
from hub.store.database import lock_names, shared
from hub.store.records import NewJob
from hub.store.schema import jobs

_HELD = (State.ASSIGNED, State.RUNNING)


@dataclass(frozen=True)
class Submission:
    """Jobs of one tenant, all or none of them to be stored, while no more than `max_queued` of the tenant's wait."""

    jobs: Sequence[NewJob]
    max_queued: float = math.inf


@dataclass(frozen=True)
class Full:
    """A submission was not stored, because so many jobs of its tenant wait."""

    queued: int


def lock(connection: sa.Connection, writes: Sequence[Write], new: Sequence[Submission]) -> None:
    """Lock the tenants that a transaction may bring beyond a limit; the first that it does."""
    if shared(connection.engine):
        running = {write.tenant for write in _limited(writes)}
        lock_names(connection, running.union(one.jobs[0].tenant for one in new if one.max_queued < math.inf))


def beyond(connection: sa.Connection, writes: Sequence[Write]) -> dict[int, Outcome]:
    """What becomes of the assignments, by `id`, for which too many jobs of their tenants are with nodes."""
    limited = _limited(writes) if shared(connection.engine) else []
    if not limited:
        return {}
    ending = {
        commits.job_id(write)
        for write in writes
        if isinstance(write, CommitSuccess | CommitFailure | CommitCancel | Requeue)
    }
    held: dict[str, list[str]] = {write.tenant: [] for write in limited}
    query = sa.select(jobs.c.tenant, jobs.c.job_id).where(jobs.c.state.in_(_HELD), jobs.c.tenant.in_(held))
    for tenant, job_id in connection.execute(query):
        if job_id not in ending:
            held[tenant].append(job_id)
    refused: dict[int, Outcome] = {}
    for write in limited:
        if len(held[write.tenant]) >= write.at_most:
            refused[id(write)] = Outcome(applied=False, in_the_way=tuple(held[write.tenant]))
        else:
            held[write.tenant].append(write.ref.job_id)
    return refused


def room(connection: sa.Connection, new: Sequence[Submission]) -> list[Full | None]:
    """For each submission whether the queue of its tenant is too full for it."""
    limited = [one for one in new if one.max_queued < math.inf] if shared(connection.engine) else []
    queued = _queued(connection, {one.jobs[0].tenant for one in limited})
    answers: list[Full | None] = []
    for one in new:
        if one.max_queued == math.inf or not queued:
            answers.append(None)
            continue
        tenant = one.jobs[0].tenant
        keys = {(tenant, job.idempotency_key) for job in one.jobs}
        coming = len(keys)
        if queued[tenant] + coming > one.max_queued:  # unless some of them are repeats
            coming -= len(records.known_keys(connection, keys))
        if coming and queued[tenant] + coming > one.max_queued:
            answers.append(Full(queued[tenant]))
        else:
            answers.append(None)
            queued[tenant] += coming
    return answers


def _limited(writes: Sequence[Write]) -> list[Assign]:
    return [write for write in writes if isinstance(write, Assign) and write.at_most < math.inf]


def _queued(connection: sa.Connection, tenants: Collection[Tenant]) -> Counter[str]:
    if not tenants:
        return Counter()
    waits = (jobs.c.state == State.QUEUED, jobs.c.tenant.in_(tenants))
    query = sa.select(jobs.c.tenant, sa.func.count()).where(*waits).group_by(jobs.c.tenant)
    return Counter(dict.fromkeys(tenants, 0) | dict(connection.execute(query).all()))
