"""What the decisions want done. Everything under "stored" is one conditional update; what is sent goes out after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from hub.core.decisions import Decision, Kind, PassedOver
from hub.core.faults import Failure
from hub.core.jobs import Ref


class Verdict(IntEnum):
    """The wire's ResultVerdict, number for number."""

    COMMITTED = 1
    SUPERSEDED = 2
    UNKNOWN = 3
    VIDEO_MISSING = 4


# Stored. Each applies only while the job is where the comment says; otherwise it changes nothing.


@dataclass(frozen=True)
class Assign:
    """Give a queued job whose newest attempt is ref.attempt - 1 to a slot; then send it there.

    Not while as many of its tenant's jobs as `at_most` are with nodes: other hubs may have given some away.
    """

    ref: Ref
    node_id: str
    region: str
    slot: int
    reason: str
    passed_over: tuple[PassedOver, ...] = ()
    finish_s: float = 0.0  # expected, from now on
    tenant: str = ""
    at_most: float = math.inf

    @property
    def decision(self) -> Decision:
        """The placement as it is kept."""
        job_id, attempt = self.ref
        return Decision(Kind.PLACED, self.reason, job_id, attempt, self.node_id, self.passed_over, self.finish_s)


@dataclass(frozen=True)
class MarkRunning:
    """Note that an assigned attempt has begun. Also takes a queued job back to the attempt that it was taken from."""

    ref: Ref
    node_id: str


@dataclass(frozen=True)
class Requeue:
    """End an attempt in flight and let the job wait again."""

    ref: Ref
    failure: Failure
    tries: int


@dataclass(frozen=True)
class CommitSuccess:
    """End a job that has not ended with this attempt's video; then tell the node the verdict."""

    ref: Ref
    node_id: str
    result: bytes


@dataclass(frozen=True)
class CommitFailure:
    """End a job that has not ended."""

    ref: Ref
    failure: Failure


@dataclass(frozen=True)
class CommitCancel:
    """End a job that has not ended."""

    job_id: str


@dataclass(frozen=True)
class Record:
    """Note a decision about a node. Applies always."""

    decision: Decision


Write = Assign | MarkRunning | Requeue | CommitSuccess | CommitFailure | CommitCancel | Record


# Sent.


@dataclass(frozen=True)
class Acknowledge:
    """Tell a node what became of its report."""

    node_id: str
    ref: Ref
    verdict: Verdict


@dataclass(frozen=True)
class StopAttempt:
    """Tell a node to stop an attempt and free the slot."""

    node_id: str
    ref: Ref
    reason: str


@dataclass(frozen=True)
class TellDrain:
    """Tell a node whether it is draining."""

    node_id: str
    drain: bool


@dataclass(frozen=True)
class SendProbe:
    """Ask a node to prove that it works."""

    node_id: str
    probe_id: str
    slot: int


Send = Acknowledge | StopAttempt | TellDrain | SendProbe
Instruction = Write | Send
