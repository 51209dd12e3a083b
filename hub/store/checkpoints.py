"""The furthest state of each job that has not ended: noted, given to the next attempt, and forgotten."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.core.jobs import Ref, State
from hub.store.database import insert_ignoring
from hub.store.schema import attempts, checkpoints, jobs

MOST_GIVEN = 2
"""A state with which so many attempts began and got no further is not trusted: the next one begins anew."""
_LIVE = (State.QUEUED, State.ASSIGNED, State.RUNNING)


@dataclass(frozen=True)
class Noted:
    """What a node says of a state that it has uploaded."""

    sha256: str
    size_bytes: int
    done: int
    total: int


def tenant_of(connection: sa.Connection, node_id: str, ref: Ref) -> str | None:
    """Whose the job is; None when it has ended, or another attempt has been given out since, or to another node."""
    of_job = sa.select(jobs.c.tenant).join(attempts, attempts.c.job_id == jobs.c.job_id).where(
        jobs.c.job_id == ref.job_id,
        jobs.c.attempt == ref.attempt,
        jobs.c.state.in_(_LIVE),
        attempts.c.attempt == ref.attempt,
        attempts.c.node_id == node_id,
    )  # fmt: skip
    tenant: str | None = connection.execute(of_job).scalar()
    return tenant


def note(connection: sa.Connection, node_id: str, ref: Ref, said: Noted, now_s: float) -> str | None:
    """Keep a state if it is further than the one that is kept; the hash of the one whose place it takes, or "".

    One that is not given any more is no measure: it may have been said to be as far as nobody gets.

    None when it is not kept: the job has ended, or another attempt has been given out since, or it is no further.
    """
    tenant = tenant_of(connection, node_id, ref)
    if tenant is None:
        return None
    values = {"attempt": ref.attempt, "sha256": said.sha256, "size_bytes": said.size_bytes, "done": said.done}
    values |= {"total": said.total, "given": 0, "stored_at_s": now_s}
    row = values | {"job_id": ref.job_id, "tenant": tenant}
    if connection.execute(insert_ignoring(connection.engine, checkpoints), row).rowcount == 1:
        return ""
    before = of(connection, ref.job_id)
    further = sa.or_(checkpoints.c.done < said.done, checkpoints.c.given >= MOST_GIVEN)
    where = (checkpoints.c.job_id == ref.job_id, further)
    if connection.execute(sa.update(checkpoints).where(*where).values(**values)).rowcount != 1:
        return None
    return before.sha256 if before else ""


def give(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, sa.Row[Any]]:
    """The states that the next attempts of these jobs are to go on from, by job."""
    where = (checkpoints.c.job_id.in_(job_ids), checkpoints.c.given < MOST_GIVEN)
    found = {row.job_id: row for row in connection.execute(sa.select(checkpoints).where(*where))}
    if found:
        given = sa.update(checkpoints).where(checkpoints.c.job_id.in_(found)).values(given=checkpoints.c.given + 1)
        connection.execute(given)
    return found


def of(connection: sa.Connection, job_id: str) -> sa.Row[Any] | None:
    """The state that is kept of a job."""
    return connection.execute(sa.select(checkpoints).where(checkpoints.c.job_id == job_id)).one_or_none()


def all_of(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Every state that is kept."""
    return list(connection.execute(sa.select(checkpoints)))


def ended(connection: sa.Connection, job_ids: Collection[str]) -> list[str]:
    """Those of the jobs that have ended."""
    query = sa.select(jobs.c.job_id).where(jobs.c.job_id.in_(job_ids), jobs.c.state.not_in(_LIVE))
    return list(connection.execute(query).scalars())


def forget(connection: sa.Connection, job_id: str) -> None:
    """Of a job that has ended; whatever attempts say is not taken any more."""
    connection.execute(sa.delete(checkpoints).where(checkpoints.c.job_id == job_id))
