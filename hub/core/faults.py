"""Whose fault a failed attempt is, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Fault(IntEnum):
    """The wire's FaultKind, number for number."""

    UNSPECIFIED = 0
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

    @property
    def final(self) -> bool:
        """No other node would do better."""
        return self in (Fault.BAD_INPUT, Fault.DEADLINE)

    @property
    def counts(self) -> bool:
        """Uses up one of the job's tries."""
        return self is not Fault.DECLINED

    @property
    def nodes_own(self) -> bool:
        """The node's doing, unless its input is to blame: what breakers and fault rates count."""
        return self in (
            Fault.CRASH,
            Fault.OUT_OF_MEMORY,
            Fault.DEVICE,
            Fault.TIMEOUT,
            Fault.BROKEN_OUTPUT,
            Fault.INTERNAL,
            Fault.NODE_LOST,
        )

    @property
    def worker_restarts(self) -> bool:
        """The slot is not ready again before its next heartbeat says so."""
        return self in (Fault.CRASH, Fault.OUT_OF_MEMORY, Fault.DEVICE, Fault.TIMEOUT, Fault.DECLINED)


@dataclass(frozen=True)
class Problem:
    """One field of the caller's input and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True)
class Failure:
    """How an attempt failed. `reason` is UPPER_SNAKE_CASE and stable; `message` is for a person."""

    fault: Fault
    reason: str
    message: str
    problems: tuple[Problem, ...] = ()
