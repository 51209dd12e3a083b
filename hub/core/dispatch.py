"""The hub's decisions: events in, instructions out.

A job's way here: stored -> queued -> assigned -> running -> ended, and back to queued when its node is lost or fails.
Rules that hold at every step:
- A job is in exactly one place: the queue, the waiting room for its next try, or one slot of one node.
- A result of any try ends a job that has not ended; the store's conditional update decides who was first.
- A session that is cut keeps its leases; a try is given away only when its lease has run out, or when the node has
  come back without it.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hub.core import admission, events, placement
from hub.core.board import Board, Key
from hub.core.decisions import Decision, PassedOver
from hub.core.fair_queue import FairQueue
from hub.core.faults import Failure, Fault
from hub.core.forecast import Forecasts, Kind
from hub.core.instructions import (
    Acknowledge,
    Assign,
    CommitCancel,
    CommitFailure,
    CommitSuccess,
    Instruction,
    MarkRunning,
    Requeue,
    StopAttempt,
    TellDrain,
    Verdict,
)
from hub.core.jobs import Input, Job, Progress, Ref, Requirement, State
from hub.core.nodes import Busy, Node, Slot, SlotState
from hub.core.placement import Placement, Round
from hub.core.prospects import Outlook, Prospects
from hub.core.quarantine import Inputs, Quarantine, Witness
from hub.core.standing import Standing
from hub.core.tenants import Limits

LOOK_AHEAD = 64  # jobs that wait for a better slot before the queue is looked at no further
_LOOK_AGAIN_S = 5.0
_SPARE_DEADLINES = 1000  # of jobs that have ended, before they are cleared away
_OVERDUE_SHARE = 0.25  # of the time that it has run: what a render that should have ended is still given


@dataclass(frozen=True)
class Rules:
    """What an operator may set."""

    lease_s: float = 30.0
    max_tries: int = 3
    backoff_s: float = 1.0  # before the second try; doubles with every further one, up to 32 times
    settle_s: float = 10.0  # a heartbeat that does not know an assignment may have crossed it for so long
    heartbeat_interval_s: float = 5.0


class Dispatch:
    """All jobs that have not ended, and all nodes. `place` chooses a slot for a job."""

    def __init__(
        self,
        rules: Rules | None = None,
        weights: Mapping[str, float] | None = None,
        place: Callable[[Job, Round], Placement] = placement.place,
    ) -> None:
        self.rules = rules or Rules()
        self.jobs: dict[str, Job] = {}
        self.nodes: dict[str, Node] = {}
        self.queue = FairQueue(weights)
        self.forecasts = Forecasts()
        self.board = Board(self._pace)
        self.standing = Standing(self.nodes, self.rules.heartbeat_interval_s, self.rules.lease_s)
        self._place = place
        self._limits = Limits()
        self._running: Counter[str] = Counter()  # jobs that nodes have, by tenant
        self._fleet: admission.Fleet | None = None  # what nodes can do, until one changes
        self._quarantine = Quarantine()
        self._round = Round(self.board, self.forecasts, -math.inf)
        self._made = 0  # pools that there were when all that waits was looked at
        self._due: dict[str, tuple[float, float]] = {}  # job_id -> when its slot was to be free, and for how long
        self._look_again_s = -math.inf  # when to look at all that waits again
        self._not_before: dict[str, float] = {}  # job_id -> when its next try may start
        self._prospects = Prospects(self.board, self.forecasts, self.queue, place, self._not_before)
        self._deadlines: list[tuple[float, str]] = []  # heap of when a job that waits has to be looked at

    def handle(self, event: events.Event, now: float) -> list[Instruction]:
        """Take in one event at the time `now` (seconds on any clock that never goes back)."""
        return self.handle_all((event,), now)

    def handle_all(self, happened: Iterable[events.Event], now: float) -> list[Instruction]:
        """Take in events that have come together, each in its turn."""
        wanted = [instruction for event in happened for instruction in self._react(event, now)]
        for node_id in self.standing.changed:
            self.board.file(self.nodes[node_id], now)
        self.standing.changed.clear()
        return wanted

    def assign(self, now: float) -> list[Instruction]:
        """Give waiting jobs to free slots, in fair order, until nothing fits any more.

        To look at every job that waits for a better slot whenever anything happens would cost a busy hub most of its
        time. So all are looked at now and then, and in between only until the slots that have become free are taken,
        and those that have come since; what is promised to the others is then as it was the last time.
        """
        out: list[Instruction] = []
        if not self.board.free or not self.queue:
            return out
        if now >= self._look_again_s or self.board.made != self._made:
            self._look_again_s, self._made = now + _LOOK_AGAIN_S, self.board.made
            self._round = Round(self.board, self.forecasts, now)
        elif self.board.fresh:
            self._go_through(Round(self.board, self.forecasts, now), self.board.fresh, out)
        self._round.now = now
        self._go_through(self._round, self.board.free, out)
        self.board.fresh.clear()
        return out

    def _go_through(self, at: Round, slots: Collection[Key], out: list[Instruction]) -> None:
        """Give jobs away in order until none of these slots is free."""
        held_back = self._limits.held_back(self._running)
        late = [job_id for job_id, (due_s, _) in self._due.items() if due_s <= at.now and job_id not in at.passed]
        late.sort(key=self._due.__getitem__, reverse=True)
        while slots and len(at.passed) < LOOK_AHEAD:
            ahead = self._late(late, held_back)
            job_id = ahead or self.queue.next(at.full, at.passed, held_back)
            if job_id is None:
                break
            job = self.jobs[job_id]
            choice = self._place(job, at)
            if choice.free:
                out.append(self._give(job, choice, at, in_turn=not ahead))
                held_back = self._limits.held_back(self._running)
            elif choice.option:
                at.promise(choice.option)
                at.passed.add(job_id)
                self._due.setdefault(job_id, (at.now + choice.option.wait_s, choice.option.work_s))
            elif job.attempt:  # its own history may be what stands in the way, not the fleet
                at.passed.add(job_id)
            else:
                at.full.add(job.needs)

    def _late(self, late: list[str], held_back: Collection[str]) -> str | None:
        """The job that has waited longest beyond the moment at which the slot that it waited for was to be free.

        Without this, a long job that waits for a fast slot would see shorter ones of other tenants take that slot again
        and again. Its tenant pays for it as for any other, and goes first only while it has had no more than others.
        """
        while late:
            job = self.jobs[late.pop()]
            if (
                job in self.queue
                and job.tenant not in held_back
                and self.queue.has_claim(job.tenant, self._due[job.job_id][1])
            ):
                return job.job_id
        return None

    def limit(self, limits: Limits) -> None:
        """Weigh and bound tenants from now on."""
        self._limits = limits
        self.queue.weigh_all({name: of.weight for name, of in limits.named.items()}, limits.default.weight)

    def admit(self, job: Job, now: float) -> admission.Refused | admission.Admitted:
        """Judge a job that is not stored yet: one that no node could ever run is refused."""
        if self._fleet is None:
            self._fleet = admission.Fleet(
                capability for node in self.nodes.values() for capability in admission.capabilities(node)
            )
        return admission.admit(job, self._fleet, self.forecasts, now)

    def outlook(self, job_id: str, now: float) -> Outlook:
        """Queue position, progress, and when a job is expected to start and to finish."""
        return self.outlooks([job_id], now)[0]

    def outlooks(self, job_ids: Iterable[str], now: float) -> list[Outlook]:
        """`outlook` of each."""
        return self._prospects.outlooks(map(self.jobs.get, job_ids), now)

    def explain(self, job_id: str, now: float) -> Decision | None:
        """Why a job waits, or nothing when it does not."""
        job = self.jobs.get(job_id)
        return self._prospects.explain(job, self.nodes.values(), now) if job and not job.held else None

    def _react(self, event: events.Event, now: float) -> Iterator[Instruction]:
        match event:
            case events.Loaded():
                self._load(event, now)
            case events.JobStored(job):
                self._admit(job, now)
            case events.CancelRequested(job_id):
                yield from self._cancel(job_id)
            case events.NodeJoined():
                yield from self._join(event, now)
            case events.NodeHeard():
                yield from self._hear(event, now)
            case events.NodeLeaving(node_id, session_id):
                if node := self._in_session(node_id, session_id):
                    node.leaving = True
                    self.board.file(node, now)
            case events.NodeCut(node_id, session_id):
                if node := self._in_session(node_id, session_id):
                    yield from self.standing.cut(node, now)
                    node.session_id, node.was_ready, node.leaving = "", False, False
                    self._fleet = None
                    self.board.file(node, now)
            case events.Probed():
                yield from self._probed(event, now)
            case events.DrainSet(node_id, drain):
                if (node := self.nodes.get(node_id)) and node.drain_wanted != drain:
                    node.drain_wanted = drain
                    self.board.file(node, now)
                    yield TellDrain(node_id, drain)
            case events.AttemptStarted(node_id, ref):
                yield from self._begin(node_id, ref, now)
            case events.AttemptProgressed(node_id, ref, progress):
                self._advance(node_id, ref, progress, now)
            case events.AttemptSucceeded():
                yield from self._succeed(event, now)
            case events.AttemptFailed(node_id, ref, failure):
                yield from self._fail(node_id, ref, failure, now)
            case events.AttemptStopped(node_id, ref):
                self._free_slot(node_id, ref)
                stopped = Failure(Fault.DECLINED, "STOPPED", "the node stopped it")
                yield from self._fail(node_id, ref, stopped, now)
            case events.ClaimLost(ref):
                self._unclaim(ref, now)
            case events.Diverged(job_id, job):
                yield from self._correct(job_id, job, now)
            case events.NodesSeen(nodes):
                for seen in nodes:
                    yield from self._see(seen, now)
            case events.HubsAlive(hub_ids):
                self._rely_on(hub_ids, now)
            case events.StoodStill(seconds):
                for job in self.jobs.values():
                    job.lease_expires_at_s += seconds
                for node in self.nodes.values():
                    for busy in node.busy.values():  # heartbeats from before they were sent are only heard now
                        busy.since_s += seconds
            case events.Ticked():
                yield from self._tick(now)

    # Jobs.

    def _load(self, event: events.Loaded, now: float) -> None:
        self._fleet = None
        self.forecasts.remember(event.lessons)
        self.nodes.update((node.node_id, node) for node in event.nodes)
        for job in event.jobs:
            self._admit(job, now)

    def _admit(self, job: Job, now: float) -> None:
        if job.job_id in self.jobs:
            return
        job = replace(job)
        self.jobs[job.job_id] = job
        if not job.held:
            self._wait_for_slot(job)
            return
        self._running[job.tenant] += 1
        job.lease_expires_at_s = now + self.rules.lease_s
        job.started_at_s = now
        if node := self.nodes.get(job.node_id):
            node.busy[job.ref] = Busy(job.slot, now)
            self.board.file(node, now)

    def _wait_for_slot(self, job: Job) -> None:
        self._round.passed.discard(job.job_id)
        self.queue.add(job)
        if job.deadline_s < math.inf:
            heapq.heappush(self._deadlines, (0.0, job.job_id))

    def _give(self, job: Job, choice: Placement, at: Round, in_turn: bool) -> Assign:
        option = choice.option
        assert option
        passed_over = self._passed_over(job, choice, at)
        self.queue.start(job, option.work_s, in_turn)
        self._due.pop(job.job_id, None)
        node = self.nodes[choice.node_id]
        self._running[job.tenant] += 1
        job.state, job.attempt, job.charged_s = State.ASSIGNED, job.attempt + 1, option.work_s
        job.node_id, job.slot, job.progress = node.node_id, choice.slot, Progress()
        job.lease_expires_at_s = at.now + self.rules.lease_s
        job.started_at_s = at.now
        node.busy[job.ref] = Busy(choice.slot, at.now, at.now + option.work_s)
        self.board.file(node, at.now)
        return Assign(
            job.ref,
            node.node_id,
            node.region,
            choice.slot,
            choice.reason,
            passed_over,
            option.finish_s,
            job.tenant,
            self._limits.of(job.tenant).max_running,
        )

    def _passed_over(self, job: Job, choice: Placement, at: Round) -> tuple[PassedOver, ...]:
        if len(self.nodes) <= placement.NAMED_NODES:
            return placement.explain(job, choice.option, self.nodes.values(), at)
        return placement.summarise(job, choice.option, self.board.unusable, at)

    def _cancel(self, job_id: str) -> Iterator[Instruction]:
        job = self._forget(job_id)
        if job is None:
            return
        yield CommitCancel(job_id)
        if job.held:
            yield StopAttempt(job.node_id, job.ref, "cancelled by the caller")

    def _forget(self, job_id: str) -> Job | None:
        job = self.jobs.pop(job_id, None)
        if job:
            self._running[job.tenant] -= job.held
            if not job.held:
                self.queue.remove(job)
            self._not_before.pop(job_id, None)
            self._due.pop(job_id, None)
        return job

    def _retry(self, job: Job, failure: Failure, now: float) -> Iterator[Instruction]:
        """The job's newest try is over: another one, unless its tries are used up, or its input is to blame."""
        witness = Witness(job.node_id, job.job_id, failure.fault)
        if guilty := self._quarantine.failed(now, _inputs(job), witness, job.state is State.RUNNING):
            yield from self.standing.excuse(guilty, now)
            self._forget(job.job_id)
            yield CommitFailure(job.ref, guilty.failure)
            return
        tries = job.tries + failure.fault.counts
        if tries >= self.rules.max_tries:
            self._forget(job.job_id)
            yield CommitFailure(job.ref, replace(failure, message=f"gave up after {tries} tries: {failure.message}"))
            return
        yield Requeue(job.ref, failure, tries)
        self._running[job.tenant] -= 1
        self.queue.correct(job.tenant, -job.charged_s)  # no tenant pays for what a node has lost
        job.state, job.tries, job.progress = State.QUEUED, tries, Progress()
        self._pause(job, now)

    def _pause(self, job: Job, now: float) -> None:
        self._not_before[job.job_id] = now + self.rules.backoff_s * 2 ** min(job.attempt - 1, 5)

    def _tick(self, now: float) -> Iterator[Instruction]:
        for job_id in [job_id for job_id, due_s in self._not_before.items() if due_s <= now]:
            del self._not_before[job_id]
            self._wait_for_slot(self.jobs[job_id])
        self._expect_overdue_ends(now)
        yield from self._drop_what_comes_too_late(now)
        yield from self.standing.tick(now)
        if self.standing.frozen:
            return
        for job in [job for job in self.jobs.values() if job.held and job.lease_expires_at_s <= now]:
            yield from self._stop(job, "its lease ran out")
            lost = f"node {job.node_id} did not renew its lease for {self.rules.lease_s:g} s"
            if node := self.nodes.get(job.node_id):
                yield from self.standing.failed(node, job, Fault.NODE_LOST, now)
                self.board.file(node, now)
            yield from self._retry(job, Failure(Fault.NODE_LOST, "LEASE_EXPIRED", lost), now)

    def _drop_what_comes_too_late(self, now: float) -> Iterator[Instruction]:
        """A job in the queue that could not be done in time even if it began now fails for its deadline."""
        if len(self._deadlines) > 2 * (len(self.queue) + len(self._not_before)) + _SPARE_DEADLINES:
            self._clear_deadlines()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, job_id = heapq.heappop(self._deadlines)
            job = self.jobs.get(job_id)
            if job is None or job.held:
                continue
            least_s = self._prospects.least_work_s(job, now)
            if now + least_s <= job.deadline_s:
                heapq.heappush(self._deadlines, (max(job.deadline_s - least_s, now + 1.0), job_id))
                continue
            late_s = now + least_s - job.deadline_s
            what = (
                f"it would end {late_s:.1f} s after its deadline even if it began now" if least_s else "it has passed"
            )
            self._forget(job_id)
            yield CommitFailure(job.ref, Failure(Fault.DEADLINE, "DEADLINE_MISSED", f"dropped from the queue: {what}"))

    def _clear_deadlines(self) -> None:
        """Keep those of jobs that still wait, once each: the others would stay until they pass, which may be weeks."""
        kept: dict[str, float] = {}
        for at_s, job_id in self._deadlines:
            if (job := self.jobs.get(job_id)) and not job.held:
                kept[job_id] = min(at_s, kept.get(job_id, math.inf))
        self._deadlines = [(at_s, job_id) for job_id, at_s in kept.items()]
        heapq.heapify(self._deadlines)

    def _expect_overdue_ends(self, now: float) -> None:
        """A render that should have ended is expected to take the longer, the longer it has already taken."""
        for node_id, index in self.board.overdue(now):
            node = self.nodes[node_id]
            for busy in node.busy.values():
                if busy.slot == index and 0 < busy.ends_at_s <= now:
                    busy.ends_at_s = now + max(_OVERDUE_SHARE * (now - busy.since_s), 0.5)
            self.board.file(node, now)

    # Other hubs.

    def _unclaim(self, ref: Ref, now: float) -> None:
        """The slot is free: nothing was sent to it. The job is as the store has it, which is told next."""
        if job := self._forget(ref.job_id):
            node = self.nodes[job.node_id]
            node.busy.pop(ref, None)
            self.board.file(node, now)

    def _correct(self, job_id: str, stored: Job | None, now: float) -> Iterator[Instruction]:
        """Think of a job as the store does."""
        known = self.jobs.get(job_id)
        if known and stored and (known.ref, known.node_id, known.held) == (stored.ref, stored.node_id, stored.held):
            known.state, known.tries = stored.state, stored.tries
            return
        if known and known.held and stored and stored.ref == known.ref and not stored.held and self._has_here(known):
            known.state, known.tries = State.QUEUED, stored.tries
            self._running[known.tenant] -= 1
            yield self._revive(known, now)  # another hub took it for lost, and it is not
            return
        if known and known in self.queue and stored and stored.held:
            self.queue.start(known)  # whichever hub starts it, its tenant has had its turn
        self._forget(job_id)
        if known and known.held:
            yield from self._stop(known, "the job has ended or runs elsewhere")
        if stored and stored.state is State.QUEUED and stored.attempt:
            self.jobs[job_id] = replace(stored)
            self._pause(stored, now)
        elif stored:
            self._admit(stored, now)

    def _has_here(self, job: Job) -> bool:
        node = self.nodes.get(job.node_id)
        return node is not None and node.here

    def _stop(self, job: Job, reason: str) -> Iterator[Instruction]:
        if (node := self.nodes.get(job.node_id)) and node.online:
            yield StopAttempt(job.node_id, job.ref, reason)

    def _see(self, seen: Node, now: float) -> Iterator[Instruction]:
        node = self.nodes.setdefault(seen.node_id, Node(seen.node_id, seen.region))
        node.hub_id, node.state_there = seen.hub_id, seen.state_there
        if node.hub_id:
            node.region, node.slots, self._fleet = seen.region, seen.slots, None
        if node.drain_wanted != seen.drain_wanted:
            node.drain_wanted = seen.drain_wanted
            if node.online:
                yield TellDrain(node.node_id, node.drain_wanted)
        self.board.file(node, now)

    def _rely_on(self, hub_ids: frozenset[str], now: float) -> None:
        for node in self.nodes.values():
            if node.hub_id and node.hub_id not in hub_ids:
                node.hub_id = ""
                self.board.file(node, now)
        elsewhere = {node.node_id for node in self.nodes.values() if node.hub_id}
        for job in self.jobs.values():
            if job.held and job.node_id in elsewhere:
                self._renew(job, now)

    # Nodes.

    def _in_session(self, node_id: str, session_id: str) -> Node | None:
        node = self.nodes.get(node_id)
        return node if node and node.session_id == session_id else None

    def _join(self, event: events.NodeJoined, now: float) -> Iterator[Instruction]:
        node = self.nodes.setdefault(event.node_id, Node(event.node_id, event.region))
        node.region, node.session_id, node.leaving, node.was_ready = (
            event.region,
            event.session_id,
            event.leaving,
            False,
        )
        node.hub_id = ""
        node.busy.clear()
        node.gpus, self._fleet = event.gpus, None
        self.board.note_inputs(node, event.inputs[::-1])
        node.forgets_inputs = event.forgets_inputs
        self._note_slots(node, event.slots, now)
        yield from self.standing.joined(node, now)
        holds = {*event.running, *event.finished}
        for job in [job for job in self.jobs.values() if job.held and job.node_id == node.node_id]:
            if job.ref in holds:
                self._renew(job, now)
                node.busy[job.ref] = Busy(job.slot, now, self._prospects.expected_end_s(job, now))
            else:
                yield from self._retry(job, _lost_on_return(job), now)
        for ref in event.running:
            yield from self._reconcile(node.node_id, ref, now)
        for ref in event.finished:
            given = self.jobs.get(ref.job_id)
            if given and given.ref == ref and given.node_id == node.node_id and not given.held:
                yield self._revive(given, now)
        if node.drain_wanted:
            yield TellDrain(node.node_id, True)
        self.board.file(node, now)

    def _hear(self, event: events.NodeHeard, now: float) -> Iterator[Instruction]:
        node = self._in_session(event.node_id, event.session_id)
        if node is None:
            return
        self._note_slots(node, event.slots, now)
        yield from self.standing.heard(node, event.readings, event.round_trip_s, now)
        for ref in event.attempts:
            job = self.jobs.get(ref.job_id)
            if job and self._holds(node.node_id, job, ref):
                self._renew(job, now)
        for ref, busy in list(node.busy.items()):
            if ref not in event.attempts and now - busy.since_s > self.rules.settle_s:
                del node.busy[ref]
                job = self.jobs.get(ref.job_id)
                if job and self._holds(node.node_id, job, ref):
                    yield from self._retry(job, _lost_on_return(job), now)
        self.board.file(node, now)

    def _note_slots(self, node: Node, slots: tuple[Slot, ...], now: float) -> None:
        if self._fleet and _offers(slots) != _offers(node.slots.values()):
            self._fleet = None
        node.slots = {slot.index: slot for slot in slots}
        node.was_ready = node.was_ready or any(slot.state in (SlotState.READY, SlotState.BUSY) for slot in slots)
        node.heard_at_s = now
        for slot in slots:
            if slot.realtime_factor > 0:
                for engine in slot.engines:
                    kind = Kind(engine.engine, engine.model_version, node.gpu_class(slot))
                    self.forecasts.calibrated(kind, node.node_id, slot.realtime_factor)

    def _probed(self, event: events.Probed, now: float) -> Iterator[Instruction]:
        if node := self.nodes.get(event.node_id):
            yield from self.standing.probed(node, event, now)
            self.board.file(node, now)

    def _pace(self, node: Node, slot: Slot) -> float:
        first = slot.engines[0]
        return self.forecasts.ratio(Kind(first.engine, first.model_version, node.gpu_class(slot)), node.node_id)

    def _free_slot(self, node_id: str, ref: Ref, restarts: bool = False) -> None:
        node = self.nodes.get(node_id)
        busy = node.busy.pop(ref, None) if node else None
        if node is None or busy is None:
            return
        state = SlotState.STARTING if restarts else SlotState.READY
        if (slot := node.slots.get(busy.slot)) and slot.state is not state:
            node.slots[busy.slot] = replace(slot, state=state)
        self.standing.changed.add(node_id)

    # Attempts.

    @staticmethod
    def _holds(node_id: str, job: Job, ref: Ref) -> bool:
        return job.held and job.ref == ref and job.node_id == node_id

    def _renew(self, job: Job, now: float) -> None:
        job.lease_expires_at_s = now + self.rules.lease_s

    def _reconcile(self, node_id: str, ref: Ref, now: float) -> Iterator[Instruction]:
        """A node says that it runs an attempt."""
        job = self.jobs.get(ref.job_id)
        if job is None or job.ref != ref or job.node_id != node_id:
            yield StopAttempt(node_id, ref, "the job has ended or runs elsewhere")
        elif not job.held:
            yield self._revive(job, now)

    def _revive(self, job: Job, now: float) -> MarkRunning:
        """Given up for lost, but nobody has taken it since: the attempt goes on where it is."""
        self.queue.remove(job)
        self._not_before.pop(job.job_id, None)
        job.state = State.RUNNING
        self._running[job.tenant] += 1
        self.queue.correct(job.tenant, job.charged_s)
        self._renew(job, now)
        node = self.nodes[job.node_id]
        node.busy[job.ref] = Busy(job.slot, now, self._prospects.expected_end_s(job, now))
        self.board.file(node, now)
        return MarkRunning(job.ref, job.node_id)

    def _begin(self, node_id: str, ref: Ref, now: float) -> Iterator[Instruction]:
        job = self.jobs.get(ref.job_id)
        if job is None or not self._holds(node_id, job, ref):
            yield from self._reconcile(node_id, ref, now)
            return
        self._renew(job, now)
        if job.state is State.ASSIGNED:
            self._note_fetched(job, now)
            job.state, job.started_at_s = State.RUNNING, now
            yield MarkRunning(ref, node_id)

    def _note_fetched(self, job: Job, now: float) -> None:
        """The inputs are there, and how long that took says how good the node's line is."""
        fetched = [item for item in job.inputs if job.node_id not in self.board.having(item.sha256)]
        if fetched:
            self.forecasts.transferred(job.node_id, _bytes(fetched), now - job.started_at_s)
        node = self.nodes[job.node_id]
        if not node.forgets_inputs:
            self.board.note_inputs(node, tuple(item.sha256 for item in job.inputs))

    def _advance(self, node_id: str, ref: Ref, progress: Progress, now: float) -> None:
        job = self.jobs.get(ref.job_id)
        if job and self._holds(node_id, job, ref):
            self._renew(job, now)
            if progress.fraction >= job.progress.fraction:
                job.progress = progress

    def _succeed(self, event: events.AttemptSucceeded, now: float) -> Iterator[Instruction]:
        self._free_slot(event.node_id, event.ref)
        job = self._forget(event.ref.job_id)
        yield CommitSuccess(event.ref, event.node_id, event.result)
        if job is None:
            return
        self._quarantine.rendered(_inputs(job), event.node_id)
        if job.held:
            self.queue.correct(job.tenant, now - job.started_at_s - job.charged_s)
        if (node := self.nodes.get(event.node_id)) and job.node_id == event.node_id:
            ratio = self._learn(job, node, event.rendered) if event.rendered else 0.0
            yield from self.standing.rendered(node, job, ratio, now)
            self.standing.changed.add(node.node_id)
        if job.held and job.ref != event.ref:
            yield StopAttempt(job.node_id, job.ref, "an earlier try has finished first")

    def _learn(self, job: Job, node: Node, rendered: events.Rendered) -> float:
        """How much work the render was beside what is usual; 0 where that cannot be told."""
        slot = node.slots.get(job.slot)
        offer = slot.offer(job.requirement) if slot else None
        warm, took_s = rendered.portrait_was_prepared, rendered.render_s + rendered.preparing_s
        if slot is None or offer is None or not rendered.video_s or not took_s:
            return 0.0
        kind = Kind(offer.engine, offer.model_version, node.gpu_class(slot))
        work = job.work._replace(video_s=rendered.video_s)
        usual_s = self.forecasts.baseline(kind, work, warm)
        self.forecasts.rendered(kind, node.node_id, work, took_s, warm, rendered.preparing_s)
        gpu = node.gpu_of(slot)  # what is more than it has was not taken, and would refuse the size to all
        if not gpu or not gpu.memory_bytes or rendered.peak_memory_bytes <= gpu.memory_bytes:
            self.forecasts.used_memory(kind.engine, kind.model_version, work, rendered.peak_memory_bytes)
        return took_s / usual_s

    def _fail(self, node_id: str, ref: Ref, failure: Failure, now: float) -> Iterator[Instruction]:
        self._free_slot(node_id, ref, failure.fault.worker_restarts)
        job = self.jobs.get(ref.job_id)
        if job is None or not self._holds(node_id, job, ref):
            yield Acknowledge(node_id, ref, Verdict.SUPERSEDED)
            return
        node = self.nodes[node_id]
        yield from self.standing.failed(node, job, failure.fault, now)
        if failure.fault in (Fault.OUT_OF_MEMORY, Fault.WOULD_NOT_FIT):
            self._learn_limit(job, node)
        if failure.fault.final:
            self._forget(job.job_id)
            yield CommitFailure(ref, failure)
        else:
            yield from self._retry(job, failure, now)
        self.board.file(node, now)
        yield Acknowledge(node_id, ref, Verdict.COMMITTED)

    def _learn_limit(self, job: Job, node: Node) -> None:
        slot = node.slots.get(job.slot)
        offer = slot.offer(job.requirement) if slot else None
        gpu = node.gpu_of(slot) if slot else None
        if slot and offer and gpu:
            kind = Kind(offer.engine, offer.model_version, node.gpu_class(slot))
            self.forecasts.ran_out(kind, job.work, gpu.memory_bytes)


def _inputs(job: Job) -> Inputs:
    portrait, voice = [item.sha256 for item in job.inputs] or [job.job_id, ""]
    return Inputs(portrait, voice, job.requirement.engine)


def _offers(slots: Iterable[Slot]) -> set[tuple[tuple[Requirement, ...], str]]:
    return {(slot.engines, slot.gpu_uuid) for slot in slots}


def _bytes(inputs: list[Input]) -> int:
    return sum(item.size_bytes for item in inputs)


def _lost_on_return(job: Job) -> Failure:
    if job.state is State.ASSIGNED:
        return Failure(Fault.DECLINED, "ASSIGNMENT_LOST", f"node {job.node_id} never received it")
    return Failure(Fault.NODE_LOST, "ATTEMPT_LOST", f"node {job.node_id} came back without it")
