"""What callers asked and were told, and what nodes did: one record each, kept as JSON lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonic.v1 import jobs_pb2

FINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Seen:
    """A job as an answer showed it."""

    job_id: str
    key: str
    state: str
    revision: int
    attempts: int = 0
    open_attempts: int = 0  # those that had not ended
    digest: str = ""  # of the video
    reason: str = ""  # of the failure

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class Call:
    """One call, or one message of a stream. Times are of one monotonic clock, shared by all callers."""

    kind: str  # submit, get, watch, list, cancel; follow: whether a caller has seen the end of its job
    caller: str
    tenant: str
    began_s: float
    ended_s: float
    outcome: str  # ok, refused: the hub said no; unclear: it may have happened or not; broken: no fault explains it
    key: str = ""
    job_id: str = ""
    jobs: tuple[Seen, ...] = ()  # a list holds all jobs of the tenant
    detail: str = ""


@dataclass(frozen=True)
class Note:
    """What a node wrote down."""

    at_s: float
    node_id: str
    kind: str  # began, finished, acknowledged
    job_id: str
    attempt: int
    detail: str = ""  # finished: video, failure or stopped; acknowledged: the verdict
    digest: str = ""


@dataclass(frozen=True)
class Try:
    """An attempt as it is stored; times are of the hub's wall clock."""

    attempt: int
    node_id: str
    assigned_at_s: float
    ended_at_s: float | None
    reason: str = ""


@dataclass(frozen=True)
class Stored:
    """A job as it is stored in the end."""

    job_id: str
    tenant: str
    key: str
    state: str
    revision: int
    won_by: int | None = None
    digest: str = ""
    reason: str = ""
    has_deadline: bool = False
    tries: tuple[Try, ...] = ()


def seen(job: jobs_pb2.Job) -> Seen:
    """What matters of a job on the wire."""
    return Seen(
        job_id=job.job_id,
        key=job.idempotency_key,
        state=jobs_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower(),
        revision=job.revision,
        attempts=len(job.attempts),
        open_attempts=sum(not attempt.HasField("ended_at") for attempt in job.attempts),
        digest=job.video.sha256,
        reason=job.failure.reason,
    )


class Book:
    """Calls as they are made; `path` keeps them for whoever wants to look at them afterwards."""

    def __init__(self, path: Path) -> None:
        self.calls: list[Call] = []
        self._file = path.open("w", encoding="utf-8")

    def add(self, call: Call) -> None:
        self.calls.append(call)
        self._file.write(json.dumps(dataclasses.asdict(call)) + "\n")

    def close(self) -> None:
        self._file.close()


def notes(path: Path) -> Iterator[Note]:
    """What nodes wrote down; a line that a kill has cut short is no note."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        yield Note(**values)
