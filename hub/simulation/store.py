"""The store of a simulated hub: the conditional updates of the real one, which may refuse transactions for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hub.core.instructions import CommitCancel, Record, Write
from hub.core.jobs import Job
from hub.core.nodes import Node
from hub.store.commits import Outcome
from hub.testing import MemoryStore

Seen = Callable[[Write, Job | None, Outcome], None]


class SimulatedStore(MemoryStore):
    """Survives every hub. `seen` is told of each write, what its job was before, and what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.revisions: dict[str, int] = {}
        self.keys: dict[tuple[str, str], str] = {}  # tenant and idempotency key -> job_id
        self.nodes: dict[str, Node] = {}
        self.refuses = False
        self.seen: Seen = lambda write, before, outcome: None

    def submit(self, key: str, job: Job) -> tuple[str, bool]:
        """Store a job unless its tenant has used the key before. Returns the job_id and whether it is new."""
        job_id = self.keys.setdefault((job.tenant, key), job.job_id)
        if job_id != job.job_id or job_id in self.rows:
            return job_id, False
        self.add(replace(job, sequence=len(self.rows)))
        self.revisions[job_id] = 1
        return job_id, True

    def carry_out(self, writes: Sequence[Write]) -> list[Outcome]:
        """One transaction."""
        return [self._watched(write) for write in writes]

    def copy(self, job_id: str) -> Job:
        return replace(self.rows[job_id].job)

    def _watched(self, write: Write) -> Outcome:
        if isinstance(write, Record):
            outcome = self.apply(write)
            self.seen(write, None, outcome)
            return outcome
        job_id = write.job_id if isinstance(write, CommitCancel) else write.ref.job_id
        row = self.rows.get(job_id)
        before = replace(row.job) if row else None
        outcome = self.apply(write)
        if outcome.applied:
            self.revisions[job_id] += 1
        self.seen(write, before, outcome)
        return outcome
