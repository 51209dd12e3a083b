"""Where jobs are written: new ones and what was decided of others, many in one transaction.

What was acknowledged to a caller or to an agent survives a power loss. That a job was assigned or has begun survives,
in a local database, the end of this process at once, and a power loss only with the next commit that does. That is
sound, since nothing takes it from there without taking the hub too, which so never knows more than its store. The hub
that comes back gives the attempt's number out again, and takes a result only from the node to which the store says that
it was given: of two nodes with the same number, the first is told to stop when it says Hello, and what it reports is
answered with UNKNOWN. What it costs is one render. A database that is a server can be lost alone: there every commit
is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub import wire
from hub.artifacts import durations
from hub.core.instructions import Assign, CommitSuccess, Instruction, MarkRunning, Record, Send, Write
from hub.core.jobs import Ref
from hub.store import checkpoints, commits, quotas, records
from hub.store.artifacts import KnownArtifacts
from hub.store.bulletin import Bulletin
from hub.store.commits import Apart, Outcome
from hub.store.database import impatient, is_local
from hub.store.quotas import Full, Submission
from hub.store.records import JobRecord
from sonic.v1 import fleet_service_pb2, jobs_pb2

_EXACT_ENOUGH = 0.02
_MOST_FRESH = 10_000
Stored = list[tuple[JobRecord, bool]]
"""Each job of a submission, and whether it is new."""
Taken = Stored | Full
"""What became of a submission."""


@dataclass(frozen=True)
class Given:
    """What the node is to be told of an attempt that was given to it."""

    tenant: str
    spec: jobs_pb2.JobSpec
    portrait: sa.Row[Any]
    voice: sa.Row[Any]
    queued_s: float
    checkpoint: sa.Row[Any] | None = None  # the state to go on from


@dataclass(frozen=True)
class Committed:
    """A write and what came of it; `given` is there for an Assign that was applied."""

    write: Write
    outcome: Outcome
    given: Given | None = None


@dataclass(frozen=True)
class Draft:
    """A transaction of which all is done but the commit: nobody sees it yet. Another thread may commit it."""

    committed: list[Committed]
    taken: list[Taken]
    commit: Callable[[], None]


def is_passing(instruction: Instruction) -> bool:
    """Whether it need not survive a power loss at once."""
    return isinstance(instruction, Assign | MarkRunning | Send)


class Ledger:
    """Of one hub. To be used by one thread at a time.

    Where `quick` is set, statements take less time than handing them to a thread, which would wait for the loop's turn
    with each of them; only a commit that waits for the disk is worth a thread.
    """

    def __init__(self, database: sa.Engine, known: KnownArtifacts, bulletin: Bulletin, hub_id: str) -> None:
        self.quick = is_local(database)
        self._database = database
        self._impatient = {durable: impatient(database, durable) for durable in (True, False)} if self.quick else {}
        self._known = known
        self._fresh: dict[str, sa.Row[Any]] = {}  # jobs stored here a moment ago: most are assigned at once
        self._bulletin = bulletin
        self._hub_id = hub_id

    def close(self) -> None:
        for engine in self._impatient.values():
            engine.dispose()

    def write(self, writes: Sequence[Write], new: Sequence[Submission], now_s: float) -> Draft:
        """All of it or nothing, at the wall-clock time `now_s`, committed, but for what is beyond a tenant's limit.

        Raises sqlalchemy.exc.SQLAlchemyError.
        """
        draft = self._draft(self._database, writes, new, now_s)
        draft.commit()
        return draft

    def draft(self, writes: Sequence[Write], new: Sequence[Submission], now_s: float, durable: bool) -> Draft | None:
        """`write` without the commit, where the ledger is quick. None while somebody else is writing."""
        try:
            return self._draft(self._impatient[durable], writes, new, now_s)
        except sa.exc.OperationalError:
            return None

    def _draft(self, engine: sa.Engine, writes: Sequence[Write], new: Sequence[Submission], now_s: float) -> Draft:
        try:
            return self._drafted(engine, commits.apply_together, writes, new, now_s)
        except Apart:
            return self._drafted(engine, _apply_in_turn, writes, new, now_s)

    def _drafted(
        self,
        engine: sa.Engine,
        apply: Callable[[sa.Connection, Sequence[Write], float, str], list[Outcome]],
        writes: Sequence[Write],
        new: Sequence[Submission],
        now_s: float,
    ) -> Draft:
        with contextlib.ExitStack() as transaction:
            connection = transaction.enter_context(engine.begin())
            quotas.lock(connection, writes, new)
            outcomes = quotas.beyond(connection, writes)
            within = [write for write in writes if id(write) not in outcomes]
            applied = apply(connection, within, now_s, self._hub_id)
            outcomes |= {id(write): outcome for write, outcome in zip(within, applied, strict=True)}
            committed, taken = self._finish(connection, writes, outcomes, new, now_s)
            return Draft(committed, taken, transaction.pop_all().close)

    def _finish(
        self,
        connection: sa.Connection,
        writes: Sequence[Write],
        outcomes: Mapping[int, Outcome],
        new: Sequence[Submission],
        now_s: float,
    ) -> tuple[list[Committed], list[Taken]]:
        committed = self._committed(connection, writes, [outcomes[id(write)] for write in writes], now_s)
        taken = _add(connection, new, now_s)
        stored = [answer for answer in taken if not isinstance(answer, Full)]
        changed = [_order(one.write) for one in committed if one.outcome.applied]
        added = [record.row.job_id for answer in stored for record, created in answer if created]
        self._bulletin.tell(connection, jobs=[*filter(None, changed), *added])
        if len(self._fresh) > _MOST_FRESH:
            self._fresh.clear()
        self._fresh |= {record.row.job_id: record.row for answer in stored for record, created in answer if created}
        return committed, taken

    def _committed(
        self, connection: sa.Connection, writes: Sequence[Write], outcomes: Sequence[Outcome], now_s: float
    ) -> list[Committed]:
        made = list(zip(writes, outcomes, strict=True))
        won = [write for write, outcome in made if isinstance(write, CommitSuccess) and outcome.applied]
        self._learn_durations(connection, won)
        assigned = [write.ref for write, outcome in made if isinstance(write, Assign) and outcome.applied]
        given = self._given(connection, assigned, now_s) if assigned else {}
        return [
            Committed(write, outcome, given.get(write.ref.job_id) if isinstance(write, Assign) else None)
            for write, outcome in made
        ]

    def _learn_durations(self, connection: sa.Connection, won: Sequence[CommitSuccess]) -> None:
        """The next job with the same recording need not guess, if this one's guess was wrong."""
        told_s = {write.ref.job_id: audio_s for write in won if (audio_s := _audio_s(write.result))}
        for job in records.specs(connection, list(told_s)) if told_s else ():
            audio_s = told_s[job.job_id]
            if abs(audio_s - (job.video_s or 0.0)) > _EXACT_ENOUGH * audio_s:
                sha256 = jobs_pb2.JobSpec.FromString(job.spec).voice_sha256
                records.learn_duration(connection, job.tenant, sha256, audio_s)
                self._known.forget(job.tenant, sha256)

    def _given(self, connection: sa.Connection, refs: list[Ref], now_s: float) -> dict[str, Given]:
        found: dict[str, Given] = {}
        job_ids = [ref.job_id for ref in refs]
        tried = [ref.job_id for ref in refs if ref.attempt > 1]  # of no other job there can be a state
        states = checkpoints.give(connection, tried) if tried else {}
        rows = [self._fresh.pop(job_id) for job_id in job_ids if job_id in self._fresh]
        fresh = {row.job_id for row in rows}
        older = [job_id for job_id in job_ids if job_id not in fresh]
        for row in (*rows, *(records.specs(connection, older) if older else ())):
            spec = jobs_pb2.JobSpec.FromString(row.spec)
            inputs = self._known.read(connection, row.tenant, (spec.portrait_sha256, spec.voice_sha256))
            portrait, voice = inputs[spec.portrait_sha256], inputs[spec.voice_sha256]
            queued_s = max(now_s - row.submitted_at_s, 0.0)
            found[row.job_id] = Given(row.tenant, spec, portrait, voice, queued_s, states.get(row.job_id))
        return found


def _apply_in_turn(connection: sa.Connection, writes: Sequence[Write], now_s: float, hub_id: str) -> list[Outcome]:
    """Hubs that change the same jobs take them in one order, so that none waits for another that waits for it."""
    in_order = sorted(range(len(writes)), key=lambda index: _order(writes[index]))
    done = {index: commits.apply(connection, writes[index], now_s, hub_id) for index in in_order}
    return [done[index] for index in range(len(writes))]


def _order(write: Write) -> str:
    return "" if isinstance(write, Record) else commits.job_id(write)


def _audio_s(result: bytes) -> float:
    """0 where what the node says is no length that a recording can have: whatever is learned, later jobs go by."""
    said_s = fleet_service_pb2.RenderedVideo.FromString(result).report.audio_seconds
    return wire.sane(said_s, durations.LONGEST_S)


def _add(connection: sa.Connection, new: Sequence[Submission], now_s: float) -> list[Taken]:
    full = quotas.room(connection, new)
    fitting = [job for one, refusal in zip(new, full, strict=True) if not refusal for job in one.jobs]
    added = iter(records.add_jobs(connection, fitting, now_s) if fitting else [])
    return [refusal or [next(added) for _ in one.jobs] for one, refusal in zip(new, full, strict=True)]
