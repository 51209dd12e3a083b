"""The states of an attempt on their way to the hub: the newest one, one at a time, without taking the line."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.attempts import Ref
from agent.core.instructions import Instruction, SendCheckpoint

SHARE = 0.1  # of the time that states may be on the line


@dataclass
class Checkpoints:
    """Those of one attempt."""

    _newest: tuple[int, int] | None = None  # done and total of what has not been sent yet
    _sending: bool = False
    _began_at_s: float = 0.0
    _not_before_s: float = 0.0

    def made(self, done: int, total: int) -> None:
        """There is a newer one; it takes the place of one that still waits."""
        self._newest = (done, total)

    def due(self, ref: Ref, now: float) -> list[Instruction]:
        """What can be done while a session stands."""
        if self._newest is None or self._sending or now < self._not_before_s:
            return []
        (done, total), self._newest = self._newest, None
        self._sending, self._began_at_s = True, now
        return [SendCheckpoint(ref, done, total)]

    def sent(self, now: float) -> None:
        """The one that was on its way is there, or is lost."""
        took_s = now - self._began_at_s
        self._sending, self._not_before_s = False, now + took_s * (1 / SHARE - 1)
