"""A job that has not ended, as the decisions see it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

PRIORITY_STEP_S = 60.0
"""One step of priority is worth a minute of waiting: a static key, so that whatever waits long enough goes first."""


class Ref(NamedTuple):
    """The fencing token: which try of which job."""

    job_id: str
    attempt: int


class Requirement(NamedTuple):
    """What a slot must offer; an empty model version stands for any."""

    engine: str
    model_version: str


class Work(NamedTuple):
    """What decides how much work a job is."""

    video_s: float = 0.0  # seconds of video wanted; 0 when not known
    side_px: int = 512  # short side of the video
    steps: int = 25  # inference steps, for engines that have them


class Input(NamedTuple):
    """A file that the node needs before it can begin."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class RegionRules:
    """Where a job may and should run."""

    prefer: frozenset[str] = frozenset()
    require: frozenset[str] = frozenset()  # nowhere else; any when empty
    avoid: frozenset[str] = frozenset()  # only if nowhere else could ever run it


class Needs(NamedTuple):
    """Jobs with the same needs can go to the same slots: when one of them finds none, none does.

    What a job prefers is no part of it: it chooses among slots, and the names are the caller's own, so that with them
    each job would be a kind for itself to look at.
    """

    requirement: Requirement
    require: frozenset[str]
    avoid: frozenset[str]
    side_px: int


class State(StrEnum):
    """Where a job is in its life, as it is stored."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Progress:
    """How far the running attempt is; `fraction` is of the whole attempt, 0 to 1."""

    stage: str = ""
    done: int = 0
    total: int = 0
    fraction: float = 0.0


@dataclass
class Job:
    """What is known of a job between its submission and its end."""

    job_id: str
    tenant: str
    requirement: Requirement
    priority: int
    submitted_at_s: float  # wall clock; orders jobs, is never compared with `now`
    sequence: int  # order of storing; breaks ties
    work: Work = field(default_factory=Work)
    inputs: tuple[Input, ...] = ()  # the portrait, then the voice
    regions: RegionRules = field(default_factory=RegionRules)
    deadline_s: float = math.inf  # by the clock of `now`
    state: State = State.QUEUED
    attempt: int = 0  # the newest try's number; 0 before the first
    tries: int = 0  # tries that counted
    node_id: str = ""  # of the newest try
    slot: int = -1
    lease_expires_at_s: float = 0.0
    started_at_s: float = 0.0
    progress: Progress = field(default_factory=Progress)
    charged_s: float = 0.0  # what its tenant was charged for the newest try

    @property
    def ref(self) -> Ref:
        return Ref(self.job_id, self.attempt)

    @property
    def needs(self) -> Needs:
        return Needs(self.requirement, self.regions.require, self.regions.avoid, self.work.side_px)

    @property
    def held(self) -> bool:
        """A node has it."""
        return self.state in (State.ASSIGNED, State.RUNNING)

    @property
    def queue_key(self) -> tuple[float, int]:
        """Jobs of a tenant go in ascending order of this."""
        return (self.submitted_at_s - self.priority * PRIORITY_STEP_S, self.sequence)
