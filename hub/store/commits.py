"""The decisions' writes, each one conditional update: it applies only while the job is where the decision saw it.

`apply` runs inside the caller's transaction, so that many writes share one commit. `apply_together` is the same for the
common case, that every one of many writes applies: a statement for all of a kind, for what a statement costs is mostly
its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from hub import wire
from hub.core.instructions import (
    Assign,
    CommitCancel,
    CommitFailure,
    CommitSuccess,
    MarkRunning,
    Record,
    Requeue,
    Verdict,
    Write,
)
from hub.core.jobs import Ref, State
from hub.store import records
from hub.store.database import shared
from hub.store.prepared import Prepared
from hub.store.schema import attempts, decisions, jobs

_LIVE = (State.QUEUED, State.ASSIGNED, State.RUNNING)
_HELD = (State.ASSIGNED, State.RUNNING)


@dataclass(frozen=True)
class Outcome:
    """Whether a write changed the job, and what to tell the node that reported."""

    applied: bool
    verdict: Verdict = Verdict.SUPERSEDED
    in_the_way: tuple[str, ...] = ()  # other jobs, for which it was not applied


_APPLIED = Outcome(True, Verdict.COMMITTED)
W = TypeVar("W", bound=Write)


def apply(connection: sa.Connection, write: Write, now_s: float, hub_id: str) -> Outcome:
    """Carry out one write of a hub at the wall-clock time `now_s`. Raises sqlalchemy.exc.SQLAlchemyError."""
    match write:
        case Assign():
            return _assign(connection, write, now_s, hub_id)
        case MarkRunning(ref):
            return _mark_running(connection, ref, now_s)
        case Requeue():
            return _requeue(connection, write, now_s)
        case CommitSuccess():
            return _succeed(connection, write, now_s)
        case CommitFailure():
            return _fail(connection, write, now_s)
        case CommitCancel(job_id):
            where = (jobs.c.job_id == job_id, jobs.c.state.in_(_LIVE))
            return Outcome(_update(connection, where, state=State.CANCELLED, ended_at_s=now_s))
        case Record(decision):
            message = wire.decision_message(decision, now_s, hub_id).SerializeToString()
            values = {"at_s": now_s, "node_id": decision.node_id, "message": message}
            connection.execute(sa.insert(decisions).values(values))
            return Outcome(applied=True)


class Apart(Exception):
    """Some of many writes do not apply, or depend on each other: undo the transaction, and `apply` them one by one."""


def apply_together(connection: sa.Connection, writes: Sequence[Write], now_s: float, hub_id: str) -> list[Outcome]:
    """As if each was applied in turn. Raises Apart, sqlalchemy.exc.SQLAlchemyError."""
    assigned, begun, won = _of(writes, Assign), _of(writes, MarkRunning), _of(writes, CommitSuccess)
    others = [write for write in writes if not isinstance(write, Assign | MarkRunning | CommitSuccess)]
    ended = {write.ref for write in won}
    started = {write.ref for write in begun} & ended  # begun and done at once
    begun = [write for write in begun if write.ref not in started]
    touched = [job_id(write) for write in (*assigned, *begun, *won, *others) if not isinstance(write, Record)]
    if len(set(touched)) < len(touched):
        raise Apart
    if shared(connection.engine):  # hubs that change the same jobs lock them in one order
        connection.execute(_LOCK, {"job_ids": touched})
    _assign_together(connection, assigned, now_s, hub_id)
    _begin_together(connection, [write.ref for write in begun], now_s)
    _succeed_together(connection, won, started, now_s)
    answers = {id(write): apply(connection, write, now_s, hub_id) for write in others}
    return [answers.get(id(write), _APPLIED) for write in writes]


def _update(connection: sa.Connection, where: tuple[sa.ColumnElement[bool], ...], **values: Any) -> bool:
    statement = sa.update(jobs).where(*where).values(revision=jobs.c.revision + 1, **values)
    return connection.execute(statement).rowcount == 1


def _at(ref: Ref, *states: State) -> tuple[sa.ColumnElement[bool], ...]:
    return (jobs.c.job_id == ref.job_id, jobs.c.attempt == ref.attempt, jobs.c.state.in_(states))


def _end_attempt(connection: sa.Connection, ref: Ref, now_s: float | None, failure: bytes | None) -> None:
    where = (attempts.c.job_id == ref.job_id, attempts.c.attempt == ref.attempt)
    connection.execute(sa.update(attempts).where(*where).values(ended_at_s=now_s, failure=failure))


def _assign(connection: sa.Connection, write: Assign, now_s: float, hub_id: str) -> Outcome:
    before = Ref(write.ref.job_id, write.ref.attempt - 1)
    if not _update(connection, _at(before, State.QUEUED), state=State.ASSIGNED, attempt=write.ref.attempt):
        return Outcome(applied=False)
    _ADD_ATTEMPT.execute(connection, [_attempt_row(write, now_s, hub_id)])
    return Outcome(applied=True)


def _attempt_row(write: Assign, now_s: float, hub_id: str) -> dict[str, Any]:
    return {
        "job_id": write.ref.job_id,
        "attempt": write.ref.attempt,
        "node_id": write.node_id,
        "region": write.region,
        "slot": write.slot,
        "placement_reason": write.reason,
        "assigned_at_s": now_s,
        "decision": wire.decision_message(write.decision, now_s, hub_id).SerializeToString(),
    }


def _mark_running(connection: sa.Connection, ref: Ref, now_s: float) -> Outcome:
    started = sa.func.coalesce(jobs.c.started_at_s, now_s)
    if not _update(connection, _at(ref, State.ASSIGNED, State.QUEUED), state=State.RUNNING, started_at_s=started):
        return Outcome(applied=False)
    where = (attempts.c.job_id == ref.job_id, attempts.c.attempt == ref.attempt)
    begun = sa.func.coalesce(attempts.c.started_at_s, now_s)
    connection.execute(sa.update(attempts).where(*where).values(started_at_s=begun, ended_at_s=None, failure=None))
    return Outcome(applied=True)


def _requeue(connection: sa.Connection, write: Requeue, now_s: float) -> Outcome:
    if not _update(connection, _at(write.ref, *_HELD), state=State.QUEUED, tries=write.tries):
        return Outcome(applied=False)
    _end_attempt(connection, write.ref, now_s, wire.failure_message(write.failure).SerializeToString())
    return Outcome(applied=True)


def _fail(connection: sa.Connection, write: CommitFailure, now_s: float) -> Outcome:
    failure = wire.failure_message(write.failure).SerializeToString()
    if not _update(connection, _at(write.ref, *_LIVE), state=State.FAILED, failure=failure, ended_at_s=now_s):
        return Outcome(applied=False)
    _end_attempt(connection, write.ref, now_s, failure)
    return Outcome(applied=True)


def _succeed(connection: sa.Connection, write: CommitSuccess, now_s: float) -> Outcome:
    """The first valid result wins, whichever try it is of; a repeat is answered with what already holds."""
    given = records.attempt(connection, write.ref.job_id, write.ref.attempt, write.node_id)
    if given is None:
        return Outcome(applied=False, verdict=Verdict.UNKNOWN)
    where = (jobs.c.job_id == write.ref.job_id, jobs.c.state.in_(_LIVE))
    won = {"state": State.SUCCEEDED, "won_by": write.ref.attempt, "result": write.result, "ended_at_s": now_s}
    if _update(connection, where, **won):
        _end_attempt(connection, write.ref, now_s, None)
        return Outcome(applied=True, verdict=Verdict.COMMITTED)
    winner = connection.execute(sa.select(jobs.c.won_by).where(jobs.c.job_id == write.ref.job_id)).scalar()
    return Outcome(applied=False, verdict=Verdict.COMMITTED if winner == write.ref.attempt else Verdict.SUPERSEDED)


# Many at once.


def _one_of(*states: State) -> sa.ColumnElement[bool]:
    """An IN cannot be carried out for many rows at once."""
    return sa.or_(*(jobs.c.state == state for state in states))


_JOB, _ATTEMPT, _NODE = (
    sa.bindparam("of_job", type_=sa.String),
    sa.bindparam("of_attempt", type_=sa.Integer),
    sa.bindparam("of_node", type_=sa.String),
)
_NOW, _BEGUN = sa.bindparam("now_s", type_=sa.Double), sa.bindparam("begun_s", type_=sa.Double)
_LOCK = (
    sa.select(jobs.c.job_id)
    .where(jobs.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .order_by(jobs.c.job_id)
    .with_for_update()
)
_ADD_ATTEMPT = Prepared(sa.insert(attempts))
_ASSIGN = Prepared(
    sa.update(jobs)
    .where(jobs.c.job_id == _JOB, jobs.c.attempt == _ATTEMPT - 1, jobs.c.state == State.QUEUED)
    .values(revision=jobs.c.revision + 1, state=State.ASSIGNED, attempt=_ATTEMPT)
)
_BEGIN = Prepared(
    sa.update(jobs)
    .where(jobs.c.job_id == _JOB, jobs.c.attempt == _ATTEMPT, _one_of(State.ASSIGNED, State.QUEUED))
    .values(revision=jobs.c.revision + 1, state=State.RUNNING, started_at_s=sa.func.coalesce(jobs.c.started_at_s, _NOW))
)
_THIS_ATTEMPT = (attempts.c.job_id == _JOB, attempts.c.attempt == _ATTEMPT)
_BEGIN_ATTEMPT = Prepared(
    sa.update(attempts)
    .where(*_THIS_ATTEMPT)
    .values(started_at_s=sa.func.coalesce(attempts.c.started_at_s, _NOW), ended_at_s=None, failure=None)
)
_SUCCEED = Prepared(
    sa.update(jobs)
    .where(
        jobs.c.job_id == _JOB,
        _one_of(*_LIVE),
        sa.exists().where(*_THIS_ATTEMPT, attempts.c.node_id == _NODE),
    )
    .values(
        revision=jobs.c.revision + 1,
        state=State.SUCCEEDED,
        won_by=_ATTEMPT,
        result=sa.bindparam("video"),
        started_at_s=sa.func.coalesce(jobs.c.started_at_s, _BEGUN),
        ended_at_s=_NOW,
    )
)
_SUCCEED_ATTEMPT = Prepared(
    sa.update(attempts)
    .where(*_THIS_ATTEMPT)
    .values(started_at_s=sa.func.coalesce(attempts.c.started_at_s, _BEGUN), ended_at_s=_NOW, failure=None)
)


def _assign_together(connection: sa.Connection, writes: list[Assign], now_s: float, hub_id: str) -> None:
    _update_all(connection, _ASSIGN, [_at_ref(write.ref) for write in writes])
    if writes:
        _ADD_ATTEMPT.execute(connection, [_attempt_row(write, now_s, hub_id) for write in writes])


def _begin_together(connection: sa.Connection, refs: list[Ref], now_s: float) -> None:
    rows = [_at_ref(ref) | {"now_s": now_s} for ref in refs]
    _update_all(connection, _BEGIN, rows)
    _update_all(connection, _BEGIN_ATTEMPT, rows)


def _succeed_together(connection: sa.Connection, writes: list[CommitSuccess], begun: set[Ref], now_s: float) -> None:
    rows = [_at_ref(write.ref) | {"now_s": now_s, "begun_s": now_s if write.ref in begun else None} for write in writes]
    won = [{"of_node": write.node_id, "video": write.result} | row for write, row in zip(writes, rows, strict=True)]
    _update_all(connection, _SUCCEED, won)
    _update_all(connection, _SUCCEED_ATTEMPT, rows)


def _update_all(connection: sa.Connection, statement: Prepared, rows: list[dict[str, Any]]) -> None:
    if rows and statement.execute(connection, rows) != len(rows):
        raise Apart


def _at_ref(ref: Ref) -> dict[str, Any]:
    return {"of_job": ref.job_id, "of_attempt": ref.attempt}


def _of(writes: Iterable[Write], kind: type[W]) -> list[W]:
    return [write for write in writes if isinstance(write, kind)]


def job_id(write: Write) -> str:
    assert not isinstance(write, Record)
    return write.job_id if isinstance(write, CommitCancel) else write.ref.job_id
