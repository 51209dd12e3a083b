"""Doubles that behave like the real thing, for our tests and for yours."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.config import HubConfig
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
from hub.core.jobs import Job, Ref, State
from hub.service import Hub, serving
from hub.store.commits import Outcome
from sonic import simulated_fleet
from sonic.simulated_fleet import SimulatedFleet
from sonic.simulated_node import SimulatedNode
from sonic.simulated_profile import GPU_CLASSES, GpuClass, NodeProfile, unlike

__all__ = [
    "GPU_CLASSES",
    "GpuClass",
    "MemoryStore",
    "NodeProfile",
    "SimulatedFleet",
    "SimulatedNode",
    "StoredJob",
    "running_fleet",
    "running_hub",
    "unlike",
]


@asynccontextmanager
async def running_hub(data_dir: Path | None = None, **settings: Any) -> AsyncIterator[Hub]:
    """A real hub on free ports, with any setting of HubConfig; its folder is removed afterwards unless one is given.

    It is insecure (plain text, nobody is asked who he is) unless told otherwise.
    """
    free: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "agent_listen": "127.0.0.1:0",
        "http_listen": "127.0.0.1:0",
        "insecure": True,
    }
    with tempfile.TemporaryDirectory(prefix="sonic-hub-") as folder:
        config = HubConfig(**(free | {"data_dir": data_dir or Path(folder)} | settings))
        async with serving(config) as hub:
            yield hub


@asynccontextmanager
async def running_fleet(hub: Hub, profiles: Sequence[NodeProfile]) -> AsyncIterator[SimulatedFleet]:
    """Simulated nodes of that hub, all of them connected; leaving the context ends them as a kill would."""
    async with simulated_fleet.running(hub.grpc_address, profiles) as fleet:
        await fleet.joined()
        yield fleet


@dataclass
class StoredJob:
    """A row of the memory store."""

    job: Job
    won_by: int = 0
    given_to: dict[int, tuple[str, int]] = field(default_factory=dict)  # attempt -> node_id, slot


class MemoryStore:
    """The conditional updates of `hub.store.commits` on a dict. What it holds survives the hub, not the process."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredJob] = {}

    def add(self, job: Job) -> None:
        self.rows.setdefault(job.job_id, StoredJob(job))

    def live(self) -> tuple[Job, ...]:
        """What a hub that starts would load."""
        return tuple(row.job for row in self.rows.values() if not row.job.state.ended)

    def apply(self, write: Write) -> Outcome:
        """Carry out one write, as `commits.apply` does."""
        match write:
            case Assign(ref, node_id):
                row = self._at(Ref(ref.job_id, ref.attempt - 1), State.QUEUED)
                if row:
                    row.job.state, row.job.attempt = State.ASSIGNED, ref.attempt
                    row.job.node_id, row.job.slot = node_id, write.slot
                    row.given_to[ref.attempt] = (node_id, write.slot)
            case MarkRunning(ref):
                row = self._at(ref, State.ASSIGNED, State.QUEUED)
                if row:
                    row.job.state = State.RUNNING
            case Requeue(ref, _, tries):
                row = self._at(ref, State.ASSIGNED, State.RUNNING)
                if row:
                    row.job.state, row.job.tries = State.QUEUED, tries
            case CommitSuccess():
                return self._succeed(write)
            case CommitFailure(ref):
                row = self._at(ref, State.QUEUED, State.ASSIGNED, State.RUNNING)
                if row:
                    row.job.state = State.FAILED
            case CommitCancel(job_id):
                row = self.rows.get(job_id)
                row = row if row and not row.job.state.ended else None
                if row:
                    row.job.state = State.CANCELLED
            case Record():
                return Outcome(True)
        return Outcome(row is not None)

    def _at(self, ref: Ref, *states: State) -> StoredJob | None:
        row = self.rows.get(ref.job_id)
        return row if row and row.job.attempt == ref.attempt and row.job.state in states else None

    def _succeed(self, write: CommitSuccess) -> Outcome:
        row = self.rows.get(write.ref.job_id)
        if row is None or row.given_to.get(write.ref.attempt, ("", -1))[0] != write.node_id:
            return Outcome(False, Verdict.UNKNOWN)
        if not row.job.state.ended:
            row.job.state, row.won_by = State.SUCCEEDED, write.ref.attempt
            return Outcome(True, Verdict.COMMITTED)
        return Outcome(False, Verdict.COMMITTED if row.won_by == write.ref.attempt else Verdict.SUPERSEDED)
