"""Where jobs are written: new ones and what was decided of others, many in one transaction.

What was acknowledged to a caller or to an agent survives a power loss. That a job was assigned or has begun survives
the end of this process at once, and a power loss only with the next commit that does: should it be lost, the hub gives
the attempt's number out again. That is sound, since a result is taken only from the node to which the store says that
the attempt was given: of two nodes with the same number, the first is told to stop when it says Hello, and what it
reports is answered with UNKNOWN. What it costs is one render, and only when the power fails within that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.core.instructions import Assign, Instruction, MarkRunning, Record, Send, Write, job_of
from hub.store import commits, records
from hub.store.artifacts import KnownArtifacts
from hub.store.bulletin import Bulletin
from hub.store.commits import Apart, Outcome
from hub.store.database import passing
from hub.store.records import JobRecord, NewJob
from sonic.v1 import jobs_pb2

Stored = list[tuple[JobRecord, bool]]
"""Each job of a submission, and whether it is new."""


@dataclass(frozen=True)
class Given:
    """What the node is to be told of an attempt that was given to it."""

    tenant: str
    spec: jobs_pb2.JobSpec
    portrait: sa.Row[Any]
    voice: sa.Row[Any]
    queued_s: float


@dataclass(frozen=True)
class Committed:
    """A write and what came of it; `given` is there for an Assign that was applied."""

    write: Write
    outcome: Outcome
    given: Given | None = None


def is_passing(instruction: Instruction) -> bool:
    """Whether it need not survive a power loss at once."""
    return isinstance(instruction, Assign | MarkRunning | Send)


class Ledger:
    """Of one hub. To be used by one thread at a time."""

    def __init__(self, database: sa.Engine, known: KnownArtifacts, bulletin: Bulletin, hub_id: str) -> None:
        self._database = database
        self._passing = passing(database)
        self._known = known
        self._bulletin = bulletin
        self._hub_id = hub_id

    def close(self) -> None:
        self._passing.dispose()

    def write(
        self, writes: Sequence[Write], new: Sequence[Sequence[NewJob]], now_s: float
    ) -> tuple[list[Committed], list[Stored]]:
        """All of it or nothing, at the wall-clock time `now_s`. Raises sqlalchemy.exc.SQLAlchemyError."""
        # Hubs that change the same jobs take them in one order, so that none waits for another that waits for it.
        in_order = sorted(range(len(writes)), key=lambda index: job_of(writes[index]))
        done, stored = self._write([writes[index] for index in in_order], new, now_s)
        by_index = dict(zip(in_order, done, strict=True))
        return [by_index[index] for index in range(len(writes))], stored

    def _write(
        self, writes: Sequence[Write], new: Sequence[Sequence[NewJob]], now_s: float
    ) -> tuple[list[Committed], list[Stored]]:
        engine = self._passing if not new and all(map(is_passing, writes)) else self._database
        try:
            with engine.begin() as connection:
                outcomes = commits.apply_together(connection, writes, now_s, self._hub_id)
                return self._committed(connection, writes, outcomes, now_s), self._add(connection, new, now_s)
        except Apart:
            with engine.begin() as connection:
                outcomes = [commits.apply(connection, write, now_s, self._hub_id) for write in writes]
                return self._committed(connection, writes, outcomes, now_s), self._add(connection, new, now_s)

    def _add(self, connection: sa.Connection, new: Sequence[Sequence[NewJob]], now_s: float) -> list[Stored]:
        added = records.add_jobs(connection, [job for jobs in new for job in jobs], now_s) if new else []
        self._bulletin.tell(connection, jobs=[record.row.job_id for record, created in added if created])
        each = iter(added)
        return [[next(each) for _ in jobs] for jobs in new]

    def _committed(
        self, connection: sa.Connection, writes: Sequence[Write], outcomes: Sequence[Outcome], now_s: float
    ) -> list[Committed]:
        made = list(zip(writes, outcomes, strict=True))
        changed = [job_of(write) for write, outcome in made if outcome.applied and not isinstance(write, Record)]
        self._bulletin.tell(connection, jobs=changed)
        assigned = [write.ref.job_id for write, outcome in made if isinstance(write, Assign) and outcome.applied]
        given = self._given(connection, assigned, now_s) if assigned else {}
        return [
            Committed(write, outcome, given.get(write.ref.job_id) if isinstance(write, Assign) else None)
            for write, outcome in made
        ]

    def _given(self, connection: sa.Connection, job_ids: list[str], now_s: float) -> dict[str, Given]:
        found: dict[str, Given] = {}
        for row in records.specs(connection, job_ids):
            spec = jobs_pb2.JobSpec.FromString(row.spec)
            inputs = self._known.read(connection, row.tenant, (spec.portrait_sha256, spec.voice_sha256))
            portrait, voice = inputs[spec.portrait_sha256], inputs[spec.voice_sha256]
            found[row.job_id] = Given(row.tenant, spec, portrait, voice, max(now_s - row.submitted_at_s, 0.0))
        return found
