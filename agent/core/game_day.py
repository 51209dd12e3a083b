"""Faults that an operator lets a node suffer, to see what the fleet makes of them. Each ends by itself."""

from __future__ import annotations

from enum import IntEnum


class GameDayFault(IntEnum):
    """The wire's GameDayFault, number for number."""

    HEAT = 1
    XID = 2
    LEAK = 3
    SLOW = 4
    CUT = 5
    SKEW = 6


class GameDay:
    """The faults that are played now."""

    def __init__(self) -> None:
        self._until_s: dict[GameDayFault, float] = {}

    def begin(self, fault: GameDayFault, seconds: float, now: float) -> None:
        self._until_s[fault] = now + seconds

    def end(self, fault: GameDayFault) -> bool:
        """Whether it was played."""
        return self._until_s.pop(fault, None) is not None

    def over(self, now: float) -> list[GameDayFault]:
        """Those whose time is up."""
        return [fault for fault, until_s in self._until_s.items() if now >= until_s]

    def left(self, now: float) -> tuple[tuple[GameDayFault, float], ...]:
        """What is played, and for how many seconds more."""
        return tuple((fault, until_s - now) for fault, until_s in self._until_s.items())

    @property
    def cut(self) -> bool:
        """Whether the line to the hub is to be taken for dead."""
        return GameDayFault.CUT in self._until_s
