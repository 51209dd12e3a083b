"""A simulated hub: the real decisions in a shell that decides, commits, and only then sends.

It does as hub/server/dispatcher.py does, and can be killed between any two of these. Only the store outlives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub.core import events, instructions
from hub.core.jobs import Job
from hub.core.nodes import Node
from hub.simulation import stories
from hub.simulation.network import LIMP_S, Session
from hub.simulation.nodes import Hello, Welcome
from hub.store.commits import Outcome

if TYPE_CHECKING:
    from hub.simulation.fleet import Fleet

TICK_S = 0.5
MAX_BATCH = 500
SILENCE_S = 20.0
Reply = Callable[[str], None]  # with the job_id, or nothing


@dataclass
class Posted:
    """An event, and who waits until what follows from it is committed."""

    event: events.Event
    done: Callable[[bool], None] | None = None  # with whether it was


@dataclass
class Submission:
    """A job to be stored."""

    key: str
    job: Job
    done: Reply


class SimulatedHub:
    """One process."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name = name
        self.up = False
        self.dispatch = fleet.make_dispatch()
        self.sessions: dict[str, Session] = {}
        self.committing = False  # decided, and not yet in the store
        self.doomed = ""  # the point of its next batch at which it is killed: decided, committed or sending
        self.clock_off_s = 0.0  # of its wall clock
        self.up_since_s = 0.0
        self._fleet = fleet
        self._world = fleet.world
        self._inbox: deque[Posted | Submission] = deque()
        self._taken: list[Posted] = []  # of the batch that is being dealt with
        self._doubtful: dict[str, None] = {}  # jobs to be looked up in the store before anything is decided on them
        self._life = 0
        self._working = False

    # Life.

    def start(self) -> None:
        """Take over what the store holds."""
        if self.up:
            return
        self.up, self.up_since_s = True, self._world.now
        self._life += 1
        self._working = self.committing = False
        self._doubtful = {}
        self.doomed = ""
        self.dispatch = self._fleet.make_dispatch()
        store = self._fleet.store
        nodes = tuple(Node(node.node_id, node.region, drain_wanted=node.drain_wanted) for node in store.nodes.values())
        loaded = events.Loaded(tuple(replace(job) for job in store.live()), nodes)
        self.dispatch.handle(loaded, self._world.now)
        self._tell(f"starts with {len(loaded.jobs)} jobs that have not ended")
        self._world.after(TICK_S, self._tick, self._life)

    def kill(self, comes_back_in_s: float, host_lost: bool = False) -> None:
        """Gone at once, with everything that is not in the store."""
        if not self.up:
            return
        self._tell("is killed")
        self.up = False
        self._life += 1
        waiting, self._inbox, self._taken = [*self._taken, *self._inbox], deque(), []
        for item in waiting:
            if isinstance(item, Submission):
                item.done("")
            elif item.done:
                item.done(False)
        self._fleet.promises.hub_killed(self)
        for session in list(self.sessions.values()):
            session.close_at_hub(LIMP_S if host_lost else self._world.random.uniform(0, 0.2))
        self.sessions.clear()
        self._world.after(comes_back_in_s, self.start)

    def _tick(self, life: int) -> None:
        if life == self._life:
            self.post(events.Ticked())
            self._world.after(TICK_S, self._tick, life)

    # What comes in.

    def take(self, session: Session, message: Any) -> None:
        """Something has come from a node."""
        if not self.up:
            return
        if isinstance(message, Hello):
            self._welcome(session, message)
            return
        if isinstance(message, events.AttemptSucceeded) and not self._was_given(message):
            session.to_node(instructions.Acknowledge(message.node_id, message.ref, instructions.Verdict.UNKNOWN))
            return
        self.post(message)

    def ended(self, session: Session) -> None:
        """A stream is gone."""
        node_id = session.node.name
        if self.sessions.get(node_id) is session:
            del self.sessions[node_id]
        if self.up:
            self.post(events.NodeCut(node_id, session.session_id))

    def submit(self, submission: Submission) -> None:
        if self.up:
            self._put(submission)
        else:
            submission.done("")

    def cancel(self, job_id: str, done: Callable[[bool], None]) -> None:
        """As JobService.CancelJob: answered when the cancel is committed."""
        if not self.up:
            done(False)
        elif self._fleet.store.rows[job_id].job.state.ended:
            done(True)
        else:
            self._fleet.promises.cancel_asked(self, job_id)
            self._put(Posted(events.CancelRequested(job_id), done))

    def set_drain(self, node_id: str, drain: bool) -> None:
        """An operator's wish, which is stored."""
        if self.up:
            self.post(events.DrainSet(node_id, drain))

    def post(self, event: events.Event) -> None:
        self._put(Posted(event))

    def send(self, node_id: str, message: Any) -> None:
        """To a node, if it is connected."""
        if session := self.sessions.get(node_id):
            session.to_node(message)

    def _welcome(self, session: Session, hello: Hello) -> None:
        node = session.node
        region = self._fleet.nodes[node.name].region
        self._fleet.store.nodes.setdefault(node.name, Node(node.name, region))
        older = self.sessions.get(node.name)
        self.sessions[node.name] = session
        if older:  # what it still says is heard until it is ended
            self._world.after(self._world.random.uniform(0, 0.05), older.close_at_hub)
        session.to_node(Welcome())
        self._world.after(SILENCE_S, self._look, session)
        slots, running, finished = hello.slots, hello.running, hello.finished
        self.post(
            events.NodeJoined(
                node.name, region, session.session_id, slots, running, finished, gpus=hello.gpus, inputs=hello.inputs
            )
        )

    def _look(self, session: Session) -> None:
        silent_s = self._world.now - session.heard_at_s
        if session.hub_open and silent_s >= SILENCE_S:
            session.close_at_hub(LIMP_S)
        elif session.hub_open:
            self._world.after(SILENCE_S - silent_s + 0.01, self._look, session)

    def _was_given(self, event: events.AttemptSucceeded) -> bool:
        row = self._fleet.store.rows.get(event.ref.job_id)
        return row is not None and row.given_to.get(event.ref.attempt, ("",))[0] == event.node_id

    def _put(self, item: Posted | Submission) -> None:
        self._inbox.append(item)
        if not self._working:
            self._working = True
            self._world.after(self._world.random.random() * 0.001, self._work, self._life)

    # The batch.

    def _work(self, life: int) -> None:
        if life != self._life:
            return
        items = [self._inbox.popleft() for _ in range(min(len(self._inbox), MAX_BATCH))]
        happened: list[events.Event] = [
            event for item in items if isinstance(item, Submission) for event in self._store_submission(item)
        ]
        posted = [*self._look_up(), *(item for item in items if isinstance(item, Posted))]
        self._taken = posted
        happened += [item.event for item in posted]
        now, story = self._world.now, self._world.story
        wanted: list[instructions.Instruction] = []
        for event in happened:
            if story and not isinstance(event, events.Ticked):
                self._hear(event)
            wanted += self.dispatch.handle(event, now)
        wanted += self.dispatch.assign(now)
        if story:
            for item in wanted:
                self._say(f"decides: {stories.words(item)}", item)
        writes = [item for item in wanted if isinstance(item, instructions.Write)]
        if self._dies("decided", bool(writes)):
            return
        if writes:
            self.committing = True
            self._world.after(self._world.random.random() * 0.003, self._commit, life, writes, wanted, posted, 0.1)
        else:
            self._follow_up(life, wanted, [], posted)

    def _look_up(self) -> list[Posted]:
        asked, self._doubtful = self._doubtful, {}
        rows = {job_id: self._fleet.store.rows.get(job_id) for job_id in asked}
        return [
            Posted(events.Diverged(job_id, replace(row.job) if row and not row.job.state.ended else None))
            for job_id, row in rows.items()
        ]

    def _store_submission(self, item: Submission) -> list[events.Event]:
        store = self._fleet.store
        if store.refuses:
            item.done("")
            return []
        new = replace(item.job, submitted_at_s=self._world.now + self.clock_off_s)
        job_id, created = store.submit(item.key, new)
        if self._world.story:
            self._world.tell(self.name, "stores it" if created else f"knows the key as {job_id}", job_id)
        item.done(job_id)
        return [events.JobStored(store.copy(job_id))] if created else []

    def _commit(
        self,
        life: int,
        writes: list[instructions.Write],
        wanted: list[instructions.Instruction],
        posted: list[Posted],
        pause_s: float,
    ) -> None:
        if life != self._life:
            return
        store = self._fleet.store
        if store.refuses:
            self._world.after(pause_s, self._commit, life, writes, wanted, posted, min(2 * pause_s, 5.0))
            return
        outcomes = store.carry_out(writes)
        if self._fleet.answer_is_lost():  # committed, but the hub does not know, and tries again
            self._tell("loses the store's answer to a commit, and commits again")
            outcomes = store.carry_out(writes)
        if self._world.story:
            for write, outcome in zip(writes, outcomes, strict=True):
                self._say(f"store {'takes' if outcome.applied else 'REFUSES'}: {stories.words(write)}", write)
        self.committing = False
        if not self._dies("committed", True):
            self._follow_up(life, wanted, outcomes, posted)

    def _follow_up(
        self,
        life: int,
        wanted: list[instructions.Instruction],
        outcomes: list[Outcome],
        posted: list[Posted],
    ) -> None:
        committed = iter(outcomes)
        dies_at = self._world.random.randrange(len(wanted)) if self.doomed == "sending" and outcomes else -1
        for number, instruction in enumerate(wanted):
            if number == dies_at:
                self._dies("sending", True)
                return
            if isinstance(instruction, instructions.Write):
                self._followed(instruction, next(committed))
            else:
                self._fleet.promises.sending(self, instruction)
                self.send(instruction.node_id, instruction)
        self._fleet.promises.batch_done(self, posted, wanted)
        for item in posted:
            if item.done:
                item.done(True)
        self._working, self._taken = False, []
        if self._inbox or self._doubtful:
            self._working = True
            self._world.after(self._world.random.random() * 0.001, self._work, life)

    def _followed(self, write: instructions.Write, outcome: Outcome) -> None:
        if isinstance(write, instructions.Record):
            return
        if isinstance(write, instructions.CommitSuccess):
            self.send(write.node_id, instructions.Acknowledge(write.node_id, write.ref, outcome.verdict))
        if not outcome.applied:
            if isinstance(write, instructions.Assign):
                self.dispatch.handle(events.ClaimLost(write.ref), self._world.now)
            self._doubtful[stories.about(write)[0]] = None
        elif isinstance(write, instructions.Assign):
            self.send(write.node_id, write)

    def _dies(self, at: str, has_writes: bool) -> bool:
        if self.doomed == at and has_writes:
            self._tell(f"dies when a batch is {at}")
            self.kill(self._world.random.uniform(0.5, 10))
            return True
        return False

    # Words.

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.NodeHeard | events.NodeJoined):
            given = self.dispatch.nodes.get(event.node_id)
            held = event.attempts if isinstance(event, events.NodeHeard) else (*event.running, *event.finished)
            for ref in sorted({*held, *(given.busy if given else ())}):
                self._world.tell(self.name, f"hears: {stories.words(event)}", ref.job_id, event.node_id)
        else:
            self._say(f"hears: {stories.words(event)}", event)

    def _say(self, text: str, item: events.Event | instructions.Instruction) -> None:
        self._world.tell(self.name, text, *stories.about(item))

    def _tell(self, text: str) -> None:
        if self._world.story:
            self._world.tell(self.name, text)
