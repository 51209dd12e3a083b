"""An attempt as the decisions see it, and how it can end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, order=True)
class Ref:
    """One attempt: the fencing token."""

    job_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_id}/{self.attempt}"


class Fault(IntEnum):
    """The wire's FaultKind, number for number."""

    BAD_INPUT = 1
    CRASH = 2
    OUT_OF_MEMORY = 3
    DEVICE = 4
    TIMEOUT = 5
    BROKEN_OUTPUT = 6
    INTERNAL = 7
    NODE_LOST = 8
    DECLINED = 9
    TRANSFER = 10
    DEADLINE = 11
    WOULD_NOT_FIT = 12


@dataclass(frozen=True)
class Rendered:
    """A video lies in the attempt's scratch folder. `report` is carried as it is and means nothing to the decisions."""

    report: bytes
    seconds: float


@dataclass(frozen=True)
class Failure:
    """There is no video, and why. `problems` are pairs of a field and what is wrong with it."""

    fault: Fault
    reason: str
    message: str
    problems: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stopped:
    """The hub wanted no video any more."""


Outcome = Rendered | Failure | Stopped


@dataclass(frozen=True)
class Progress:
    """How far an attempt is. `fraction` is of the whole attempt, 0 to 1."""

    stage: str
    done: int = 0
    total: int = 0
    fraction: float = 0.0


@dataclass(frozen=True)
class Work:
    """What the hub wants rendered. `assignment` is carried as it is and means nothing to the decisions."""

    ref: Ref
    slot: int
    engine: str
    model_version: str = ""  # any when empty
    assignment: bytes = b""
