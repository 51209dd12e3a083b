"""When a node gets no work at all, and how it comes back.

A breaker opens when the node's own faults pile up, or at once when its GPU has failed for good. After a pause the node
is asked for its half-second probe clip; a clip that is right, in time, and like that of other nodes closes the breaker.
Each opening in a row doubles the pause. What a caller did wrong never counts. (Nygard, Release It!, 2007.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hub.core.faults import Fault

WINDOW_S = 600.0
MAX_FAULTS = 3  # within the window, and
MIN_RATE = 0.5  # at least this share of the attempts within it
FIRST_PAUSE_S = 10.0
MAX_PAUSE_S = 1800.0
PROBE_PATIENCE_S = 180.0
SLOWEST = 3.0  # times as long as the node's first probe clip
HEALED_AFTER = 20  # sound renders in a row until the pauses are short again
EJECTABLE_SHARE = 1 / 3  # of a region's nodes
VANISHED_SHARE, VANISHED_AT_LEAST, VANISHED_WITHIN_S = 0.3, 3, 10.0


class State(StrEnum):
    """Whether work flows."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(frozen=True)
class _Outcome:
    at_s: float
    fault: Fault | None
    job_id: str = ""


class Breaker:
    """Of one node. It outlives the node's sessions."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.reason = ""
        self._recent: list[_Outcome] = []
        self._openings = 0  # in a row
        self._sound = 0  # renders in a row
        self._probe_at_s = math.inf
        self._probe_until_s = math.inf
        self._first_factor = 0.0  # of the first probe clip that was right

    @property
    def open(self) -> bool:
        """No work is to flow: also while a probe is under way."""
        return self.state is not State.CLOSED

    @property
    def badness(self) -> int:
        """For choosing whom a region can do without: the worst first."""
        return self._openings

    def succeeded(self, now: float) -> None:
        """A render was sound."""
        self._note(_Outcome(now, None), now)
        self._sound += 1
        if self._sound >= HEALED_AFTER:
            self._openings = 0

    def failed(self, now: float, fault: Fault, job_id: str) -> None:
        """An attempt failed; faults that are not the node's own change nothing."""
        if not fault.nodes_own:
            return
        self._note(_Outcome(now, fault, job_id), now)
        self._sound = 0
        faults = [outcome for outcome in self._recent if outcome.fault]
        if not self.open and len(faults) >= MAX_FAULTS and len(faults) >= MIN_RATE * len(self._recent):
            kinds = ", ".join(sorted({outcome.fault.name for outcome in faults if outcome.fault}))
            minutes = WINDOW_S / 60
            self._open(now, f"{len(faults)} of {len(self._recent)} attempts within {minutes:.0f} min failed: {kinds}")

    def broken(self, now: float, why: str) -> None:
        """The hardware has said that it failed for good."""
        self._sound = 0
        if not self.open:
            self._open(now, why)

    def forgive(self, job_id: str) -> bool:
        """Take a job's faults back, since its input was to blame; whether that closes the breaker."""
        self._recent = [outcome for outcome in self._recent if outcome.job_id != job_id]
        faults = sum(outcome.fault is not None for outcome in self._recent)
        if self.state is State.OPEN and self.reason_is_faults and faults < MAX_FAULTS:
            self.state, self._openings = State.CLOSED, self._openings - 1
            return True
        return False

    @property
    def reason_is_faults(self) -> bool:
        return "attempts within" in self.reason

    def probe_due(self, now: float) -> bool:
        """Whether to ask for a probe clip now; one that is not answered in time has failed."""
        if self.state is State.PROBING and now >= self._probe_until_s:
            self._open(now, f"it did not answer its probe within {PROBE_PATIENCE_S:.0f} s")
        return self.state is State.OPEN and now >= self._probe_at_s

    def probing(self, now: float) -> None:
        """It has been asked."""
        self.state, self._probe_until_s = State.PROBING, now + PROBE_PATIENCE_S

    def unanswered(self, now: float) -> None:
        """The session ended, or the slot got work first: ask again soon."""
        if self.state is State.PROBING:
            self.state, self._probe_at_s = State.OPEN, now + FIRST_PAUSE_S

    def first_clip(self, realtime_factor: float) -> None:
        """What the node's own start-up probe took: the measure for later ones."""
        self._first_factor = self._first_factor or realtime_factor

    def probed(self, now: float, why_not: str, realtime_factor: float = 0.0) -> bool:
        """The clip is there; `why_not` is empty when it was right. Whether work flows again."""
        if self.state is not State.PROBING:
            return not self.open
        if not why_not and self._first_factor and realtime_factor * SLOWEST < self._first_factor:
            why_not = f"{realtime_factor:.2f} x realtime, at its start it was {self._first_factor:.2f}"
        if why_not:
            self._open(now, f"its probe clip failed: {why_not}")
            return False
        self.state, self.reason = State.CLOSED, ""
        self._recent = self._recent[len(self._recent) // 2 + 1 :]
        return True

    def _note(self, outcome: _Outcome, now: float) -> None:
        self._recent = [*(old for old in self._recent if now - old.at_s < WINDOW_S), outcome][-50:]

    def _open(self, now: float, why: str) -> None:
        self.state, self.reason = State.OPEN, why
        self._probe_at_s = now + min(FIRST_PAUSE_S * 2 ** min(self._openings, 16), MAX_PAUSE_S)
        self._openings += 1


def may_eject(wanting: Iterable[tuple[int, str]], region_nodes: int) -> set[str]:
    """Which of the nodes that should be ejected (badness, node_id) may be, of a region with so many nodes connected.

    At most a third, the worst first, but always one of two or more: a region's only node goes on, derated.
    """
    room = max(int(EJECTABLE_SHARE * region_nodes), min(region_nodes - 1, 1))
    worst = sorted(wanting, key=lambda each: (-each[0], each[1]))
    return {node_id for _, node_id in worst[: max(room, 0)]}


class Vanishing:
    """Tells the end of many sessions at once from the death of single nodes."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._lost: list[float] = []
        self._back = 0
        self._until_s = -math.inf

    def cut(self, now: float, connected: int) -> str:
        """A session has ended that should not have; `connected` counts it. The reason, when that begins a freeze."""
        self._lost = [at_s for at_s in self._lost if now - at_s < VANISHED_WITHIN_S] + [now]
        before = connected + len(self._lost) - 1
        if self.frozen(now) or len(self._lost) < VANISHED_AT_LEAST or len(self._lost) < VANISHED_SHARE * before:
            return ""
        self._until_s, self._back = now + self._grace_s, 0
        return (
            f"{len(self._lost)} of {before} sessions ended within {VANISHED_WITHIN_S:.0f} s: "
            f"nothing is requeued for {self._grace_s:.0f} s"
        )

    def joined(self, now: float) -> None:
        """A session has begun: when as many are back as were lost, the freeze is over."""
        if self.frozen(now):
            self._back += 1
            if self._back >= len(self._lost):
                self._until_s = now

    def frozen(self, now: float) -> bool:
        return now < self._until_s
