"""What was decided and why, as values: placements, refusals, requeues, deratings, ejections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """The wire's DecisionKind, number for number."""

    PLACED = 1
    WAITS = 2
    REQUEUED = 3
    ENDED = 4
    DERATED = 5
    EJECTED = 6
    PROBING = 7
    READMITTED = 8
    SPARED = 9
    FROZEN = 10
    THAWED = 11


@dataclass(frozen=True)
class PassedOver:
    """Why a node, or several alike (then without a name), were not chosen."""

    node_id: str
    reason: str
    nodes: int = 1
    finish_s: float = 0.0  # from the decision on; 0 where the job cannot run


@dataclass(frozen=True)
class Decision:
    """One decision. What it is not about is empty."""

    kind: Kind
    reason: str
    job_id: str = ""
    attempt: int = 0
    node_id: str = ""
    passed_over: tuple[PassedOver, ...] = ()
    finish_s: float = 0.0  # of a placement: expected, from the decision on
