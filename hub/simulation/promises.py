"""What has to hold at every step of a simulation, checked from outside of the decisions.

Most is checked where it can break, at each write and each batch; the whole is looked at now and then, and at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hub.core import events, instructions
from hub.core.decisions import Kind
from hub.core.instructions import Assign, CommitCancel, CommitFailure, CommitSuccess, MarkRunning, Requeue, Write
from hub.core.jobs import Job, Ref, State
from hub.core.nodes import NodeState, SlotState
from hub.simulation import stories
from hub.simulation.network import Session
from hub.store.commits import Outcome

if TYPE_CHECKING:
    from hub.simulation.fleet import Fleet
    from hub.simulation.hubs import Posted, SimulatedHub

ENDS = {CommitSuccess: State.SUCCEEDED, CommitFailure: State.FAILED, CommitCancel: State.CANCELLED}
CANCEL_ACKNOWLEDGED_S = 1.0
CANCEL_REACHES_NODE_S = 3.0
DEADLINE_NOTICED_S = 3.0
MOST_ATTEMPTS = 60
FAIR_WITHIN = 0.05


class Broken(AssertionError):
    """A promise was broken."""

    def __init__(self, promise: str, job_id: str, detail: str) -> None:
        super().__init__(promise, job_id, detail)
        self.promise, self.job_id, self.detail = promise, job_id, detail

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


class Promises:
    """Watches one run. Everything raises Broken."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world
        self._promised: dict[str, str] = {}  # acknowledged jobs
        self._ends: dict[str, tuple[State, int]] = {}
        self._last_seen: dict[str, tuple[int, State]] = {}
        self._cancels: dict[str, float] = {}  # asked of a hub, and not yet acknowledged
        self._brought: dict[str, tuple[Ref, str, Session]] = {}  # finished offline, and said so
        self._slots: dict[tuple[str, int], Ref] = {}
        self._doubtful: set[str] = set()  # the hub has yet to hear what the store holds of them
        self._wrote_s: dict[str, float] = {}  # when the store last took something of a job
        self._frozen_since_s: float | None = None
        self._used: dict[str, tuple[str, float]] = {}  # job_id -> tenant, since when it holds a slot
        self.used_s: defaultdict[str, float] = defaultdict(float)  # slot seconds by tenant
        self.longest_s = 0.0

    # The store.

    def wrote(self, write: Write, before: Job | None, outcome: Outcome) -> None:
        """One write has been carried out."""
        if isinstance(write, instructions.Record):
            self._note_freeze(write)
            return
        job_id = write.job_id if isinstance(write, CommitCancel) else write.ref.job_id
        if before is None:
            raise Broken("nothing is written of unknown jobs", job_id, stories.words(write))
        if not outcome.applied:
            self._refused(write, before, job_id)
            return
        if before.state.ended:
            self._break(
                "a job ends once", job_id, f"it was {before.state}; then the store took: {stories.words(write)}"
            )
        self._wrote_s[job_id] = self._world.now
        self._fits(write, before)
        if isinstance(write, Assign):
            self._assigned(write, before)
        if self._frozen_since_s is not None and _lease_expired(write):
            self._break("nothing is requeued during a freeze", job_id, stories.words(write))
        self._account(write, before)
        if end := ENDS.get(type(write)):
            if job_id in self._ends:
                self._break("a job ends once", job_id, f"it had {self._ends[job_id]}; then {stories.words(write)}")
            self._ends[job_id] = (end, before.attempt)
            self._brought.pop(job_id, None)
            if isinstance(write, CommitCancel) and before.held:
                self._expect_free(before)

    def _refused(self, write: Write, before: Job, job_id: str) -> None:
        self._doubtful.add(job_id)
        if isinstance(write, CommitSuccess):
            if not before.state.ended:
                self._break("a result is taken if nothing else has won", job_id, stories.words(write))
        elif not self._fleet.in_doubt:
            self._break("the only hub and its store agree", job_id, f"the store refused: {stories.words(write)}")

    def _fits(self, write: Write, before: Job) -> None:
        match write:
            case Assign(ref):
                fits = before.state is State.QUEUED and ref.attempt == before.attempt + 1
            case MarkRunning(ref):
                fits = before.state in (State.QUEUED, State.ASSIGNED) and ref == before.ref
            case Requeue(ref, _, tries):
                fits = before.held and ref == before.ref and before.tries <= tries <= before.tries + 1
            case CommitFailure(ref):
                fits = ref == before.ref
            case _:
                fits = True
        if not fits:
            was = f"it was {before.state} at try {before.attempt}; then the store took: {stories.words(write)}"
            self._break("an attempt that is over changes nothing", before.job_id, was)

    def _assigned(self, write: Assign, before: Job) -> None:
        job_id, attempt = write.ref
        rules = self._fleet.rules
        if before.tries >= rules.max_tries or attempt > MOST_ATTEMPTS:
            self._break("tries are bounded", job_id, f"{before.tries} tries were counted before {stories.words(write)}")
        hub = self._fleet.hub
        if before.attempt and before.node_id == write.node_id and (others := self._others(before, hub)):
            self._break("a retry goes to another node", job_id, f"{others} could take it; {stories.words(write)}")
        held = self._slots.get((write.node_id, write.slot))
        holder = hub.dispatch.jobs.get(held.job_id) if held and held.job_id != job_id else None
        if holder and holder.held and holder.ref == held:
            self._break("a slot holds one attempt", job_id, f"{held} holds the slot; {stories.words(write)}")
        self._slots[write.node_id, write.slot] = write.ref
        if brought := self._brought.get(job_id):
            ref, node_id, session = brought
            report = self._fleet.nodes[node_id].outbox.get(ref)
            if report and report.failure is None and hub.sessions.get(node_id) is session:
                self._break(
                    "what was finished is not rendered again", job_id, f"{node_id} has it; {stories.words(write)}"
                )

    def _others(self, job: Job, hub: SimulatedHub) -> list[str]:
        """Nodes, other than the job's last, that the hub itself calls ready for it."""
        if job.regions.avoid:
            return []
        most = max(node.model.memory_bytes for node in self._fleet.nodes.values())
        return [
            name
            for name, node in hub.dispatch.nodes.items()
            if name != job.node_id
            and node.state[0] is NodeState.READY
            and (not job.regions.require or node.region in job.regions.require)
            and self._fleet.nodes[name].model.memory_bytes in (0, most)
            and any(
                s.offer(job.requirement) and s.state in (SlotState.READY, SlotState.BUSY) for s in node.slots.values()
            )
        ]

    def _account(self, write: Write, before: Job) -> None:
        """Slot seconds by tenant."""
        now = self._world.now
        if isinstance(write, Assign):
            self._used[before.job_id] = (before.tenant, now)
        elif not isinstance(write, MarkRunning) and (held := self._used.pop(before.job_id, None)):
            tenant, since_s = held
            self.used_s[tenant] += now - since_s
            self.longest_s = max(self.longest_s, now - since_s)

    # The hub.

    def sending(self, hub: SimulatedHub, item: instructions.Send) -> None:
        """Everything that it depends on is in the store."""
        if isinstance(item, instructions.Acknowledge) and item.verdict is instructions.Verdict.COMMITTED:
            row = self._fleet.store.rows[item.ref.job_id]
            if row.job.ref == item.ref and row.job.held:
                what = f"{stories.words(item)}, but the store holds it as {row.job.state}"
                self._break("what is acknowledged is stored", item.ref.job_id, what)

    def batch_done(self, hub: SimulatedHub, posted: list[Posted], wanted: list[instructions.Instruction]) -> None:
        """A batch of the hub is decided, committed and sent."""
        touched: dict[str, None] = {}
        for item in posted:
            event = item.event
            if isinstance(event, events.Diverged):
                self._doubtful.discard(event.job_id)
                touched[event.job_id] = None
            elif isinstance(event, events.JobStored):
                touched[event.job.job_id] = None
            elif isinstance(event, events.NodeJoined):
                self._note_brought(hub, event)
        for instruction in wanted:
            if isinstance(instruction, instructions.Write) and not isinstance(instruction, instructions.Record):
                job_id = stories.about(instruction)[0]
                touched[job_id] = None
        self._agree(hub, touched)

    def _note_freeze(self, record: instructions.Record) -> None:
        if record.decision.kind is Kind.FROZEN:
            self._frozen_since_s = self._world.now
        elif record.decision.kind is Kind.THAWED:
            self._frozen_since_s = None

    def _note_brought(self, hub: SimulatedHub, event: events.NodeJoined) -> None:
        session = hub.sessions.get(event.node_id)
        for ref in event.finished:
            row = self._fleet.store.rows.get(ref.job_id)
            report = self._fleet.nodes[event.node_id].outbox.get(ref)
            if session and row and row.job.ref == ref and not row.job.state.ended and report and not report.failure:
                self._brought[ref.job_id] = (ref, event.node_id, session)

    def _agree(self, hub: SimulatedHub, job_ids: Iterable[str]) -> None:
        """The hub has each job in one place, and as the store has it."""
        dispatch = hub.dispatch
        for job_id in job_ids:
            row = self._fleet.store.rows.get(job_id)
            job = dispatch.jobs.get(job_id)
            if row is None or job_id in self._doubtful:
                continue
            if job is None:
                if not row.job.state.ended:
                    self._break("hub and store agree", job_id, f"the hub has forgotten it; stored: {row.job.state}")
                continue
            here, there = (job.state, job.attempt, job.tries), (row.job.state, row.job.attempt, row.job.tries)
            if here != there:
                self._break("hub and store agree", job_id, f"state, try, tries: hub {here}, store {there}")
            places = [job.held, job in dispatch.queue, job_id in dispatch._not_before]
            if sum(places) != 1:
                self._break("a job is in one place", job_id, f"held, queued, waits for its next try: {places}")

    def hub_killed(self, hub: SimulatedHub) -> None:
        self._slots.clear()
        self._brought.clear()
        self._doubtful.clear()
        self._cancels.clear()
        self._frozen_since_s = None

    # Callers.

    def acknowledged(self, job_id: str) -> None:
        if job_id not in self._fleet.store.rows:
            self._break("what is acknowledged is stored", job_id, "the caller was told its id")
        self._promised[job_id] = job_id

    def same_job(self, key: str, first: str, then: str) -> None:
        if first != then:
            self._break("a key names one job", then, f"key {key} was answered with {first}, then with {then}")

    def seen(self, job_id: str) -> bool:
        """A caller looks at its job. Returns whether it has ended."""
        store = self._fleet.store
        state, revision = store.rows[job_id].job.state, store.revisions[job_id]
        before, was = self._last_seen.get(job_id, (0, State.QUEUED))
        if revision < before or (was.ended and state is not was) or (revision == before and state is not was):
            detail = f"{was} at revision {before}, then {state} at {revision}"
            self._break("what a caller saw never goes back", job_id, detail)
        self._last_seen[job_id] = (revision, state)
        return state.ended

    def cancel_asked(self, hub: SimulatedHub, job_id: str) -> None:
        self._cancels.setdefault(job_id, self._world.now)
        self._world.after(CANCEL_ACKNOWLEDGED_S, self._look_at_cancel, hub, job_id, self._world.now)

    def _look_at_cancel(self, hub: SimulatedHub, job_id: str, asked_at_s: float) -> None:
        calm = hub.up and hub.up_since_s < asked_at_s and self._fleet.store_calm_since_s < asked_at_s
        if self._cancels.get(job_id) == asked_at_s and calm and not self._fleet.store.refuses:
            self._break("a cancel is acknowledged within a second", job_id, f"asked at {asked_at_s:.3f} s")

    def cancel_acknowledged(self, job_id: str) -> None:
        self._cancels.pop(job_id, None)
        if not self._fleet.store.rows[job_id].job.state.ended:
            self._break("what is acknowledged is stored", job_id, "the cancel was acknowledged, the job has not ended")

    # Nodes.

    def _expect_free(self, job: Job) -> None:
        node = self._fleet.nodes[job.node_id]
        if node.session and self._fleet.well(node):
            self._world.after(CANCEL_REACHES_NODE_S, self._look_at_slot, job.ref, job.node_id, node.session)

    def _look_at_slot(self, ref: Ref, node_id: str, session: Session) -> None:
        node = self._fleet.nodes[node_id]
        if node.session is not session or not session.hub_open or not self._fleet.well(node, CANCEL_REACHES_NODE_S):
            return
        if not self._fleet.hub.up or self._fleet.hub.up_since_s > self._world.now - 2 * CANCEL_REACHES_NODE_S:
            return
        if any(attempt.ref == ref for attempt in node.running.values()):
            what = f"{node_id} still renders {ref.job_id}#{ref.attempt} {CANCEL_REACHES_NODE_S:g} s after the cancel"
            self._break("a cancel reaches the node within 3 s", ref.job_id, what)

    # The whole.

    def check(self) -> None:
        """Everything that can be looked at between two steps."""
        hub = self._fleet.hub
        if not hub.up or hub.committing:
            return
        rows = self._fleet.store.rows
        self._agree(hub, rows)
        for job_id, (state, _) in self._ends.items():
            if rows[job_id].job.state is not state:
                self._break("a job ends once", job_id, f"it ended as {state}, and is {rows[job_id].job.state} now")
        lately_s = self._world.now - DEADLINE_NOTICED_S
        calm = hub.up_since_s < lately_s and self._fleet.store_calm_since_s < lately_s
        for job in hub.dispatch.jobs.values():
            waits_since_s = max(
                job.deadline_s, job.submitted_at_s - hub.clock_off_s, self._wrote_s.get(job.job_id, 0.0)
            )
            if calm and waits_since_s < lately_s and job in hub.dispatch.queue:
                self._break("a deadline that is missed ends the job", job.job_id, f"it was at {job.deadline_s:.3f} s")

    def all_ended(self) -> bool:
        return not any(not row.job.state.ended for row in self._fleet.store.rows.values())

    def final(self) -> None:
        """The faults are over, and so is the time that was given."""
        self.check()
        for job_id in self._promised:
            row = self._fleet.store.rows[job_id]
            if not row.job.state.ended:
                what = f"it is {row.job.state} at try {row.job.attempt} long after the last fault"
                self._break("every acknowledged job ends", job_id, what)
            if (row.job.state is State.SUCCEEDED) != (row.won_by > 0):
                self._break("a success has one winner", job_id, f"{row.job.state}, won by {row.won_by}")
        for node in self._fleet.nodes.values():
            for ref, report in node.outbox.items():
                what = f"{node.name} still waits for an answer about try {ref.attempt} ({report.failure or 'a video'})"
                self._break("every report is answered", ref.job_id, what)

    def settle_shares(self, weights: dict[str, float]) -> None:
        """Under saturation each tenant has had its share of the slots' time."""
        total_s = sum(self.used_s.values())
        for tenant, weight in weights.items():
            due_s = total_s * weight / sum(weights.values())
            got_s = self.used_s[tenant]
            if abs(got_s - due_s) > FAIR_WITHIN * due_s + self.longest_s:
                self._break("tenants share by weight", "", f"{tenant} had {got_s:.0f} s of slots, {due_s:.0f} were due")

    def begin_shares(self) -> None:
        """From now on slot seconds are counted."""
        self.used_s.clear()
        self.longest_s = 0.0
        self._used = {job_id: (tenant, self._world.now) for job_id, (tenant, _) in self._used.items()}

    def end_shares(self) -> None:
        """Count what is still held."""
        for tenant, since_s in self._used.values():
            self.used_s[tenant] += self._world.now - since_s

    def _break(self, promise: str, job_id: str, detail: str) -> None:
        raise Broken(promise, job_id, detail)


def _lease_expired(write: Write) -> bool:
    return isinstance(write, Requeue | CommitFailure) and write.failure.reason == "LEASE_EXPIRED"
