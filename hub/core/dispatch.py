"""The hub's decisions: events in, instructions out.

A job's way here: stored -> queued -> assigned -> running -> ended, and back to queued when its node is lost or fails.
Rules that hold at every step:
- A job is in exactly one place: the queue, the waiting room for its next try, or one slot of one node.
- A result of any try ends a job that has not ended; the store's conditional update decides who was first.
- A session that is cut keeps its leases; a try is given away only when its lease has run out, or when the node has
  come back without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hub.core import events, placement
from hub.core.fair_queue import FairQueue
from hub.core.faults import Failure, Fault
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
from hub.core.jobs import Job, Progress, Ref, Requirement, State
from hub.core.nodes import Busy, Node, Slot, SlotState

_EWMA_SHARE = 0.2


@dataclass(frozen=True)
class Rules:
    """What an operator may set."""

    lease_s: float = 30.0
    max_tries: int = 3
    backoff_s: float = 1.0  # before the second try; doubles with every further one, up to 32 times
    settle_s: float = 10.0  # a heartbeat that does not know an assignment may have crossed it for so long


@dataclass(frozen=True)
class Outlook:
    """What a caller is told of a job that has not ended; zeros where nothing is known."""

    progress: Progress
    queue_position: int
    eta_s: float


class Dispatch:
    """All jobs that have not ended, and all nodes."""

    def __init__(self, rules: Rules | None = None, weights: Mapping[str, float] | None = None) -> None:
        self.rules = rules or Rules()
        self.jobs: dict[str, Job] = {}
        self.nodes: dict[str, Node] = {}
        self.queue = FairQueue(weights)
        self._not_before: dict[str, float] = {}  # job_id -> when its next try may start
        self._attempt_s = 0.0  # moving average over finished attempts

    def handle(self, event: events.Event, now: float) -> list[Instruction]:
        """Take in one event at the time `now` (seconds on any clock that never goes back)."""
        return list(self._react(event, now))

    def assign(self, now: float) -> list[Instruction]:
        """Give waiting jobs to free slots, in fair order, until nothing fits any more."""
        out: list[Instruction] = []
        full: set[Requirement] = set()
        passed: set[str] = set()
        while job_id := self.queue.next(full, passed):
            job = self.jobs[job_id]
            choice = placement.place(job, self.nodes.values())
            if choice.node_id:
                out.append(self._give(job, choice, now))
            elif job.attempt:  # its own history may be what stands in the way, not the fleet
                passed.add(job_id)
            else:
                full.add(job.requirement)
        return out

    def outlook(self, job_id: str, now: float) -> Outlook:
        """Queue position, progress and ETA of a job."""
        job = self.jobs.get(job_id)
        if job is None:
            return Outlook(Progress(), 0, 0.0)
        position = self.queue.position(job)
        return Outlook(job.progress, position, self._eta_s(job, position, now))

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
            case events.NodeCut(node_id, session_id):
                if node := self._in_session(node_id, session_id):
                    node.session_id, node.was_ready, node.leaving = "", False, False
            case events.DrainSet(node_id, drain):
                if (node := self.nodes.get(node_id)) and node.drain_wanted != drain:
                    node.drain_wanted = drain
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
                self._free_slot(node_id, ref, restarts=False)
                stopped = Failure(Fault.DECLINED, "STOPPED", "the node stopped it")
                yield from self._fail(node_id, ref, stopped, now)
            case events.ClaimLost(ref):
                self._unclaim(ref)
            case events.Diverged(job_id, job):
                yield from self._correct(job_id, job, now)
            case events.NodesSeen(nodes):
                for seen in nodes:
                    yield from self._see(seen)
            case events.HubsAlive(hub_ids):
                self._rely_on(hub_ids, now)
            case events.Ticked():
                yield from self._tick(now)

    # Jobs.

    def _load(self, event: events.Loaded, now: float) -> None:
        self.nodes.update((node.node_id, node) for node in event.nodes)
        for job in event.jobs:
            self._admit(job, now)

    def _admit(self, job: Job, now: float) -> None:
        if job.job_id in self.jobs:
            return
        job = replace(job)
        self.jobs[job.job_id] = job
        if not job.held:
            self.queue.add(job)
            return
        job.lease_expires_at_s = now + self.rules.lease_s
        job.started_at_s = now
        if node := self.nodes.get(job.node_id):
            node.busy[job.slot] = Busy(job.ref, now)

    def _give(self, job: Job, choice: placement.Placement, now: float) -> Assign:
        self.queue.start(job)
        node = self.nodes[choice.node_id]
        job.state, job.attempt = State.ASSIGNED, job.attempt + 1
        job.node_id, job.slot, job.progress = node.node_id, choice.slot, Progress()
        job.lease_expires_at_s = now + self.rules.lease_s
        job.started_at_s = now
        node.busy[choice.slot] = Busy(job.ref, now)
        return Assign(job.ref, node.node_id, node.region, choice.slot, choice.reason, choice.passed_over)

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
            self.queue.remove(job)
            self._not_before.pop(job_id, None)
        return job

    def _retry(self, job: Job, failure: Failure, now: float) -> Iterator[Instruction]:
        """The job's newest try is over: another one, unless its tries are used up."""
        tries = job.tries + failure.fault.counts
        if tries >= self.rules.max_tries:
            self._forget(job.job_id)
            yield CommitFailure(job.ref, replace(failure, message=f"gave up after {tries} tries: {failure.message}"))
            return
        yield Requeue(job.ref, failure, tries)
        job.state, job.tries, job.progress = State.QUEUED, tries, Progress()
        self._pause(job, now)

    def _pause(self, job: Job, now: float) -> None:
        self._not_before[job.job_id] = now + self.rules.backoff_s * 2 ** min(job.attempt - 1, 5)

    def _tick(self, now: float) -> Iterator[Instruction]:
        for job_id in [job_id for job_id, due_s in self._not_before.items() if due_s <= now]:
            del self._not_before[job_id]
            self.queue.add(self.jobs[job_id])
        for job in [job for job in self.jobs.values() if job.held and job.lease_expires_at_s <= now]:
            yield from self._stop(job, "its lease ran out")
            lost = f"node {job.node_id} did not renew its lease for {self.rules.lease_s:g} s"
            yield from self._retry(job, Failure(Fault.NODE_LOST, "LEASE_EXPIRED", lost), now)

    # Other hubs.

    def _unclaim(self, ref: Ref) -> None:
        """The slot is free: nothing was sent to it. The job is as the store has it, which is told next."""
        if job := self._forget(ref.job_id):
            node = self.nodes[job.node_id]
            node.busy = {index: busy for index, busy in node.busy.items() if busy.ref != ref}

    def _correct(self, job_id: str, stored: Job | None, now: float) -> Iterator[Instruction]:
        """Think of a job as the store does."""
        known = self.jobs.get(job_id)
        if known and stored and (known.ref, known.node_id, known.held) == (stored.ref, stored.node_id, stored.held):
            known.state, known.tries = stored.state, stored.tries
            return
        if known and known.held and stored and stored.ref == known.ref and not stored.held and self._has_here(known):
            known.state, known.tries = State.QUEUED, stored.tries
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

    def _see(self, seen: Node) -> Iterator[Instruction]:
        node = self.nodes.setdefault(seen.node_id, Node(seen.node_id, seen.region))
        node.hub_id, node.state_there = seen.hub_id, seen.state_there
        if node.hub_id:
            node.region, node.slots = seen.region, seen.slots
        if node.drain_wanted != seen.drain_wanted:
            node.drain_wanted = seen.drain_wanted
            if node.online:
                yield TellDrain(node.node_id, node.drain_wanted)

    def _rely_on(self, hub_ids: frozenset[str], now: float) -> None:
        for node in self.nodes.values():
            if node.hub_id not in hub_ids:
                node.hub_id = ""
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
        self._note_slots(node, event.slots, now)
        holds = {*event.running, *event.finished}
        for job in [job for job in self.jobs.values() if job.held and job.node_id == node.node_id]:
            if job.ref in holds:
                self._renew(job, now)
                node.busy[job.slot] = Busy(job.ref, now)
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

    def _hear(self, event: events.NodeHeard, now: float) -> Iterator[Instruction]:
        node = self._in_session(event.node_id, event.session_id)
        if node is None:
            return
        self._note_slots(node, event.slots, now)
        for ref in event.attempts:
            job = self.jobs.get(ref.job_id)
            if job and self._holds(node.node_id, job, ref):
                self._renew(job, now)
        for index, busy in list(node.busy.items()):
            if busy.ref not in event.attempts and now - busy.since_s > self.rules.settle_s:
                del node.busy[index]
                job = self.jobs.get(busy.ref.job_id)
                if job and self._holds(node.node_id, job, busy.ref):
                    yield from self._retry(job, _lost_on_return(job), now)

    def _note_slots(self, node: Node, slots: tuple[Slot, ...], now: float) -> None:
        node.slots = {slot.index: slot for slot in slots}
        node.was_ready = node.was_ready or any(slot.state in (SlotState.READY, SlotState.BUSY) for slot in slots)
        node.heard_at_s = now

    def _free_slot(self, node_id: str, ref: Ref, restarts: bool) -> None:
        node = self.nodes.get(node_id)
        for index in [index for index, busy in node.busy.items() if busy.ref == ref] if node else []:
            assert node
            del node.busy[index]
            if slot := node.slots.get(index):
                node.slots[index] = replace(slot, state=SlotState.STARTING if restarts else SlotState.READY)

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
        self._renew(job, now)
        self.nodes[job.node_id].busy[job.slot] = Busy(job.ref, now)
        return MarkRunning(job.ref, job.node_id)

    def _begin(self, node_id: str, ref: Ref, now: float) -> Iterator[Instruction]:
        job = self.jobs.get(ref.job_id)
        if job is None or not self._holds(node_id, job, ref):
            yield from self._reconcile(node_id, ref, now)
            return
        self._renew(job, now)
        if job.state is State.ASSIGNED:
            job.state, job.started_at_s = State.RUNNING, now
            yield MarkRunning(ref, node_id)

    def _advance(self, node_id: str, ref: Ref, progress: Progress, now: float) -> None:
        job = self.jobs.get(ref.job_id)
        if job and self._holds(node_id, job, ref):
            self._renew(job, now)
            if progress.fraction >= job.progress.fraction:
                job.progress = progress

    def _succeed(self, event: events.AttemptSucceeded, now: float) -> Iterator[Instruction]:
        self._free_slot(event.node_id, event.ref, restarts=False)
        job = self._forget(event.ref.job_id)
        yield CommitSuccess(event.ref, event.node_id, event.result)
        if job and job.held and job.ref != event.ref:
            yield StopAttempt(job.node_id, job.ref, "an earlier try has finished first")
        elif job and job.held:
            took_s = now - job.started_at_s
            self._attempt_s += (took_s - self._attempt_s) * (_EWMA_SHARE if self._attempt_s else 1.0)

    def _fail(self, node_id: str, ref: Ref, failure: Failure, now: float) -> Iterator[Instruction]:
        self._free_slot(node_id, ref, failure.fault.worker_restarts)
        job = self.jobs.get(ref.job_id)
        if job is None or not self._holds(node_id, job, ref):
            yield Acknowledge(node_id, ref, Verdict.SUPERSEDED)
            return
        if failure.fault.final:
            self._forget(job.job_id)
            yield CommitFailure(ref, failure)
        else:
            yield from self._retry(job, failure, now)
        yield Acknowledge(node_id, ref, Verdict.COMMITTED)

    def _eta_s(self, job: Job, position: int, now: float) -> float:
        if job.held and job.progress.fraction > 0.02:
            elapsed_s = now - job.started_at_s
            return elapsed_s * (1 - job.progress.fraction) / job.progress.fraction
        slots = sum(len(node.slots) for node in self.nodes.values() if node.online or node.hub_id)
        if not self._attempt_s or not slots:
            return 0.0
        return self._attempt_s * (1 + (position - 1) // slots if position else 1)


def _lost_on_return(job: Job) -> Failure:
    if job.state is State.ASSIGNED:
        return Failure(Fault.DECLINED, "ASSIGNMENT_LOST", f"node {job.node_id} never received it")
    return Failure(Fault.NODE_LOST, "ATTEMPT_LOST", f"node {job.node_id} came back without it")
