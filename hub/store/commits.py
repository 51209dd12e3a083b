"""The decisions' writes, each one conditional update: it applies only while the job is where the decision saw it.

`apply` runs inside the caller's transaction, so that many writes share one commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from hub.store.schema import attempts, decisions, jobs
from sonic.v1 import fleet_service_pb2, jobs_pb2

_LIVE = (State.QUEUED, State.ASSIGNED, State.RUNNING)
_EXACT_ENOUGH = 0.02
_HELD = (State.ASSIGNED, State.RUNNING)


@dataclass(frozen=True)
class Outcome:
    """Whether a write changed the job, and what to tell the node that reported."""

    applied: bool
    verdict: Verdict = Verdict.SUPERSEDED


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
    connection.execute(
        sa.insert(attempts).values(
            job_id=write.ref.job_id,
            attempt=write.ref.attempt,
            node_id=write.node_id,
            region=write.region,
            slot=write.slot,
            placement_reason=write.reason,
            assigned_at_s=now_s,
            decision=wire.decision_message(write.decision, now_s, hub_id).SerializeToString(),
        )
    )
    return Outcome(applied=True)


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
        _learn_duration(connection, given, write.result)
        return Outcome(applied=True, verdict=Verdict.COMMITTED)
    winner = connection.execute(sa.select(jobs.c.won_by).where(jobs.c.job_id == write.ref.job_id)).scalar()
    return Outcome(applied=False, verdict=Verdict.COMMITTED if winner == write.ref.attempt else Verdict.SUPERSEDED)


def _learn_duration(connection: sa.Connection, given: sa.Row[Any], result: bytes) -> None:
    """The next job with the same recording need not guess, if this one's guess was wrong."""
    audio_s = fleet_service_pb2.RenderedVideo.FromString(result).report.audio_seconds
    if audio_s and abs(audio_s - (given.video_s or 0.0)) > _EXACT_ENOUGH * audio_s:
        spec = jobs_pb2.JobSpec.FromString(given.spec)
        records.learn_duration(connection, given.tenant, spec.voice_sha256, audio_s)
