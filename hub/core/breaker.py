"""Takes a node out when it breaks work of its own doing, and lets it back when it has shown that it can.

closed -> open -> probing -> closed, or from probing to open again. Only a clip that is right and in time closes it.
- What the caller did, or the line, never counts: only `Fault.nodes_own`.
- After a fault it may want to open (`wants`); it is opened by whoever knows how much of the region is out already
  (`ejectable`), so a spared one goes on wanting until its faults are old.
- One that is condemned and spared is probed while it stays closed: only that takes the condemnation back.
- Pauses double with each opening and each failed probe; renders that go well take the growth back slowly.
A breaker guards a node, or one GPU of one: what is wrong with one GPU is no reason to take the others of its box out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hub.core.faults import Fault

_WINDOW_S = 600.0
_FAULTS = 3  # one may be chance and two may be one cause
_LEAST_RATE = 0.2  # a node that does hundreds of jobs within the window is not bad for three
_LAST_ATTEMPTS, _LAST_FAULTS = 10, 5  # for jobs so long that few of them end within a window
_ONE_LOSS_S = 30.0  # a node that is lost loses all that it rendered: one fault, though leases end one by one
_KEPT = 64

_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 1800.0
_LOST_PROBE_PAUSE_S = 10.0
_PROBE_PATIENCE_S = 120.0  # half a second of video: a box that needs longer is of no use
_RENDERS_TO_FORGIVE = 20  # that go well, for one step of the pause's growth
_LEAST_OF_USUAL_SPEED = 0.5
_CONDEMNED_BADNESS = 1000.0  # above any number of faults

MOST_EJECTED = 0.3
"""Of a region's nodes. What is wrong with more of them is hardly each node's own fault."""
SPARED_SHARE = 0.1
"""Of its speed that a node is trusted with that should be out and is not: enough to show whether it gets better."""


class State(StrEnum):
    """Whether work goes there."""

    CLOSED = "closed"  # it does
    OPEN = "open"  # it does not
    PROBING = "probing"  # it does not, and a probe clip is under way


@dataclass(frozen=True)
class ProbeOutcome:
    """What came back from a probe."""

    ok: bool
    reason: str = ""  # why it is not ok
    realtime_factor: float = 0.0
    digest: str = ""  # empty when not made


@dataclass(frozen=True)
class ProbeNorm:
    """What a probe of this slot should be like; zero and empty where that is not known."""

    realtime_factor: float = 0.0  # of the slot's own first probe clip
    digest: str = ""  # of most nodes with this engine and model version


@dataclass(frozen=True)
class _Outcome:
    at_s: float
    job_id: str
    fault: Fault | None  # None: it went well


class Breaker:
    """One node's breaker. It outlives sessions; `now` never goes back."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.reason = ""  # of the newest change of state, in words
        self._carried: tuple[_Outcome, ...] = ()  # from before it last closed
        self._recent: deque[_Outcome] = deque(maxlen=_KEPT)
        self._condemned = ""
        self._growth = 0  # how often the next pause is doubled
        self._opened_by_faults_s: float | None = None  # when; unless it was condemned or has failed a probe since
        self._renders = 0  # that went well since the growth was last taken back
        self._due_s = 0.0

    def failed(self, now: float, fault: Fault, job_id: str) -> None:
        """An attempt failed there."""
        if fault.nodes_own and not (fault is Fault.NODE_LOST and self._lost_just_now(now)):
            self._recent.append(_Outcome(now, job_id, fault))
            self._renders = 0

    def rendered(self, now: float, job_id: str) -> None:
        """An attempt went well there."""
        self._recent.append(_Outcome(now, job_id, None))
        self._renders += 1
        if self._renders >= _RENDERS_TO_FORGIVE:
            self._renders, self._growth = 0, max(0, self._growth - 1)

    def condemn(self, reason: str) -> None:
        """It has to prove itself whatever its history: a fatal Xid, or memory errors that could not be corrected."""
        self._condemned = reason

    def wants(self, now: float) -> str:
        """Why it should be opened; empty when it should not, or is not closed."""
        if self.state is not State.CLOSED:
            return ""
        if self._condemned:
            return self._condemned
        return self._verdict(now)

    def badness(self, now: float) -> float:
        """Orders those that want to be opened: the condemned, then by faults."""
        outcomes = [*self._carried, *self._recent]
        faults = _faults(outcome for outcome in outcomes if now - outcome.at_s <= _WINDOW_S)
        return faults.total() + (_CONDEMNED_BADNESS if self._condemned else 0.0)

    def open(self, now: float) -> None:
        """Take it out, for what it `wants` to be taken out for; nothing if it does not."""
        if why := self.wants(now):
            self._opened_by_faults_s = None if self._condemned else now
            self._wait(now, why)

    def due(self, now: float) -> bool:
        """Whether a probe should be sent; the node has to be online for it."""
        waits = self.state is State.OPEN or (self.state is State.CLOSED and bool(self._condemned))
        return waits and now >= self._due_s

    def probe(self, now: float) -> None:
        """A probe has been sent."""
        self._due_s = now + _PROBE_PATIENCE_S
        if self.state is State.OPEN:
            self.state, self.reason = State.PROBING, "renders a probe clip"

    def overdue(self, now: float) -> bool:
        """Whether the answer to the probe has been waited for too long; then it has failed."""
        return self.state is State.PROBING and now >= self._due_s

    def probe_lost(self, now: float) -> None:
        """The node was cut off or declined before it could answer: ask again soon."""
        self._due_s = now + _LOST_PROBE_PAUSE_S
        if self.state is State.PROBING:
            self.state, self.reason = State.OPEN, "its probe clip was lost on the way"

    def probed(self, now: float, outcome: ProbeOutcome, norm: ProbeNorm) -> None:
        """The probe's answer. One that is open does not wait for any: an answer then comes late and changes nothing."""
        wrong = probe_fault(outcome, norm)
        match self.state:
            case State.PROBING if wrong:
                self._opened_by_faults_s = None
                self._wait(now, f"its probe clip failed: {wrong}")
            case State.PROBING:
                self._close()
            case State.CLOSED if not wrong:
                self._condemned = ""

    def forgive(self, job_id: str) -> bool:
        """Take back the faults of a job whose inputs were the cause; whether there were any.

        A breaker that would not be open without them still has to pass its probe, but at once and without growth.
        """
        kept = [outcome for outcome in self._recent if outcome.job_id != job_id or outcome.fault is None]
        carried = tuple(outcome for outcome in self._carried if outcome.job_id != job_id or outcome.fault is None)
        if len(kept) == len(self._recent) and len(carried) == len(self._carried):
            return False
        self._recent, self._carried = deque(kept, maxlen=_KEPT), carried
        opened_s = self._opened_by_faults_s
        if self.state is State.OPEN and opened_s is not None and not self._verdict(opened_s):
            self._opened_by_faults_s = None
            self._growth = max(0, self._growth - 1)
            self._due_s = opened_s
            self.reason = f"the inputs of job {job_id} were to blame; to be probed now"
        return True

    def _lost_just_now(self, now: float) -> bool:
        return any(one.fault is Fault.NODE_LOST and now - one.at_s <= _ONE_LOSS_S for one in self._recent)

    def _close(self) -> None:
        self.state, self.reason = State.CLOSED, "rendered its probe clip right and in time"
        outcomes = [*self._carried, *self._recent]
        self._carried = tuple(outcomes[(len(outcomes) + 1) // 2 :])
        self._recent.clear()
        self._condemned, self._opened_by_faults_s = "", None
        self._renders = 0

    def _verdict(self, now: float) -> str:
        if not any(outcome.fault for outcome in self._recent):  # what it was readmitted with does not open it again
            return ""
        outcomes = [*self._carried, *self._recent]
        within = [outcome for outcome in outcomes if now - outcome.at_s <= _WINDOW_S]
        faults = _faults(within)
        if faults.total() >= _FAULTS and faults.total() >= _LEAST_RATE * len(within):
            return f"{_counted(faults)} of {len(within)} attempts within {_WINDOW_S / 60:g} min"
        last = outcomes[-_LAST_ATTEMPTS:]
        faults = _faults(last)
        if faults.total() >= _LAST_FAULTS:
            return f"{_counted(faults)} of the last {len(last)} attempts"
        return ""

    def _wait(self, now: float, why: str) -> None:
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0 ** min(self._growth, 16))
        self._growth += 1
        self.state, self._due_s = State.OPEN, now + pause_s
        self.reason = f"{why}; to be probed in {pause_s:g} s"


@dataclass(frozen=True)
class Wish:
    """A node that should be ejected."""

    node_id: str
    badness: float
    reason: str


@dataclass(frozen=True)
class Ruling:
    """Who is ejected, and who is spared and why."""

    ejected: tuple[Wish, ...]
    spared: tuple[Wish, ...]  # with the reason why it is spared


def ejectable(region: str, nodes: int, out: int, wishes: Iterable[Wish]) -> Ruling:
    """Who of a region may be ejected, the worst first. `nodes` are those connected, of which `out` are ejected already.

    A region of one node keeps it: a bad node is better than none. One of two or three may go, though that is more than
    the share: they are the smallest regions, and would else never lose a bad node.
    """
    most = max(int(nodes * MOST_EJECTED), 1 if nodes > 1 else 0)
    ranked = sorted(wishes, key=lambda wish: (-wish.badness, wish.node_id))
    room = max(0, most - out)
    limit = f"{out + min(room, len(ranked))} of {nodes} nodes of {region} are out, and {most} may be"
    if nodes == 1:
        limit = f"it is the only node of {region}"
    spared = (Wish(wish.node_id, wish.badness, f"spared, {limit}: {wish.reason}") for wish in ranked[room:])
    return Ruling(tuple(ranked[:room]), tuple(spared))


def probe_fault(outcome: ProbeOutcome, norm: ProbeNorm) -> str:
    """Why a probe does not pass; empty when it does."""
    if not outcome.ok:
        return outcome.reason or "no reason given"
    if norm.digest and outcome.digest and outcome.digest != norm.digest:
        return f"the clip's digest is {outcome.digest[:12]}, most nodes with its model make {norm.digest[:12]}"
    if outcome.realtime_factor < _LEAST_OF_USUAL_SPEED * norm.realtime_factor:
        return f"{outcome.realtime_factor:.2f} x realtime, its first clip had {norm.realtime_factor:.2f}"
    return ""


def _faults(outcomes: Iterable[_Outcome]) -> Counter[Fault]:
    return Counter(outcome.fault for outcome in outcomes if outcome.fault)


def _counted(faults: Counter[Fault]) -> str:
    kinds = ", ".join(f"{count} {fault.name}" for fault, count in faults.most_common())
    return f"{faults.total()} faults of its own ({kinds})"
