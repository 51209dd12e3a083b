"""No sequence of events loses a job or ends one twice when two hubs decide over one store, each on what it has heard.

A hub hears of another's changes late, or not until it looks at everything; it may be killed between any two events, and
an agent may go to the other hub at any moment.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hub.core import events, instructions
from hub.core.dispatch import Dispatch
from hub.core.faults import Failure, Fault
from hub.core.jobs import Job
from hub.core.nodes import Node, NodeState
from hub.testing import MemoryStore

from .talk import job
from .test_promises import ENDS, NODES, RULES, Agent

HUBS = st.integers(0, 1)
NAMES = ("n1", "n2", "n3")


@dataclass
class Hub:
    """The decisions of one hub, with what its shell keeps of the others."""

    core: Dispatch = field(default_factory=lambda: Dispatch(RULES))
    doubtful: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)  # on their way


class Hubs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.hubs = [Hub(), Hub()]
        self.now = 0.0
        self.agents = {name: Agent(name) for name in NAMES}
        self.at = dict.fromkeys(NAMES, 0)  # the hub that an agent has called last
        self.ended: Counter[str] = Counter()
        self.submitted: set[str] = set()
        self.sessions = 0

    def stored(self, job_id: str) -> Job | None:
        row = self.store.rows.get(job_id)
        return replace(row.job) if row and not row.job.state.ended else None

    def happens(self, number: int, event: events.Event, doubtful: set[str] = frozenset()) -> None:
        """One batch of a dispatcher: look at what is doubtful, decide, commit, send."""
        hub = self.hubs[number]
        asked, hub.doubtful = hub.doubtful | doubtful, set()
        batch = [events.Diverged(job_id, self.stored(job_id)) for job_id in sorted(asked)] + [event]
        wanted = [item for one in batch for item in hub.core.handle(one, self.now)]
        wanted += hub.core.assign(self.now)
        sends: list[instructions.Instruction] = []
        for item in wanted:
            applied = not isinstance(item, instructions.Write) or self.commit(number, item)
            if not applied and isinstance(item, instructions.Assign):
                hub.core.handle(events.ClaimLost(item.ref), self.now)
            else:
                sends.append(item)
        for item in sends:
            self.deliver(number, item)

    def commit(self, number: int, item: instructions.Write) -> bool:
        if isinstance(item, instructions.Record):
            return True
        job_id = item.job_id if isinstance(item, instructions.CommitCancel) else item.ref.job_id
        applied = self.store.apply(item).applied
        if not applied:
            self.hubs[number].doubtful.add(job_id)
            return False
        self.ended[job_id] += isinstance(item, ENDS)
        self.hubs[1 - number].notes.add(job_id)
        return True

    def deliver(self, number: int, item: instructions.Instruction) -> None:
        agent = self.agents.get(getattr(item, "node_id", ""))
        if agent is None or not agent.session or self.at[agent.name] != number:
            return
        match item:
            case instructions.Assign(ref):
                if agent.running:
                    agent.outbox[ref] = False  # declined
                else:
                    agent.running = ref
            case instructions.StopAttempt(_, ref) if agent.running == ref:
                agent.running = None
                self.happens(number, events.AttemptStopped(agent.name, ref))
            case instructions.CommitSuccess(ref) | instructions.Acknowledge(_, ref):
                agent.outbox.pop(ref, None)

    @rule(number=HUBS)
    def hear(self, number: int) -> None:
        hub = self.hubs[number]
        hub.doubtful |= hub.notes
        hub.notes = set()
        self.happens(number, events.Ticked())

    @rule(number=HUBS)
    def lose_notes(self, number: int) -> None:
        self.hubs[number].notes = set()

    @rule(number=HUBS)
    def look_at_all(self, number: int) -> None:
        hub = self.hubs[number]
        hub.doubtful |= {row.job_id for row in self.store.live()} | set(hub.core.jobs)
        seen = [Node(name, "eu") for name in NAMES]
        for node in seen:
            if self.agents[node.node_id].session and self.at[node.node_id] != number:
                node.hub_id, node.state_there = f"hub{1 - number}", NodeState.READY
        self.happens(number, events.NodesSeen(tuple(seen)))
        self.happens(number, events.HubsAlive(frozenset({f"hub{1 - number}"})))

    @rule(number=HUBS, priority=st.integers(-10, 10))
    def submit(self, number: int, priority: int) -> None:
        name = f"job{len(self.submitted)}"
        new = replace(job(name, at=self.now, priority=priority), sequence=len(self.submitted))
        self.store.add(replace(new))
        self.submitted.add(name)
        self.hubs[1 - number].notes.add(name)
        self.happens(number, events.JobStored(new))

    @rule(number=HUBS, which=st.integers(0, 30))
    def cancel(self, number: int, which: int) -> None:
        name = f"job{which}"
        self.happens(number, events.CancelRequested(name), {name})
        assert self.stored(name) is None, "a cancel that was answered has ended the job"

    @rule(name=NODES, number=HUBS)
    def connect(self, name: str, number: int) -> None:
        agent = self.agents[name]
        before, session = self.at[name], agent.session
        self.sessions += 1
        agent.session, self.at[name] = f"session{self.sessions}", number
        if session and before != number:  # the older hub hears that a newer session stands
            self.happens(before, events.NodeCut(name, session))
        running = (agent.running,) if agent.running else ()
        held = {row.job_id for row in self.store.live() if row.held and row.node_id == name}
        known = held | {ref.job_id for ref in (*running, *agent.outbox)}
        joined = events.NodeJoined(name, "eu", agent.session, agent.slots, running, tuple(agent.outbox))
        self.happens(number, joined, known)

    @rule(name=NODES)
    def cut(self, name: str) -> None:
        agent, session = self.agents[name], self.agents[name].session
        agent.session = ""
        if session:
            self.happens(self.at[name], events.NodeCut(name, session))

    @rule(name=NODES)
    def crash_agent(self, name: str) -> None:
        self.agents[name].running = None
        self.cut(name)

    @rule(name=NODES, works=st.booleans())
    def finish(self, name: str, works: bool) -> None:
        agent = self.agents[name]
        if agent.running:
            agent.outbox[agent.running] = works
            agent.running = None

    @rule(name=NODES)
    def begin(self, name: str) -> None:
        agent = self.agents[name]
        if agent.session and agent.running:
            self.happens(self.at[name], events.AttemptStarted(name, agent.running))

    @rule(name=NODES)
    def beat(self, name: str) -> None:
        agent = self.agents[name]
        if agent.session:
            held = ((agent.running,) if agent.running else ()) + tuple(agent.outbox)
            self.happens(self.at[name], events.NodeHeard(name, agent.session, agent.slots, held))

    @rule(name=NODES)
    def report(self, name: str) -> None:
        agent = self.agents[name]
        for ref, works in list(agent.outbox.items()) if agent.session else ():
            failure = Failure(Fault.CRASH, "CRASH", "it broke")
            succeeded, failed = events.AttemptSucceeded(name, ref, b""), events.AttemptFailed(name, ref, failure)
            self.happens(self.at[name], succeeded if works else failed)

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for number in range(2):
            self.happens(number, events.Ticked())

    @rule(number=HUBS)
    def kill_hub(self, number: int) -> None:
        for name, agent in self.agents.items():
            if self.at[name] == number:
                agent.session = ""
        self.hubs[number] = Hub()
        known = tuple(Node(name, "eu") for name in NAMES)
        self.happens(number, events.Loaded(tuple(replace(live) for live in self.store.live()), known))

    @invariant()
    def no_job_ends_twice(self) -> None:
        assert all(times <= 1 for times in self.ended.values()), self.ended

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        for hub in self.hubs:
            for live in hub.core.jobs.values():
                places = [live.held, live in hub.core.queue, live.job_id in hub.core._not_before]
                assert sum(places) == 1, (live, places)

    def teardown(self) -> None:
        """Once the faults end, every job that was acknowledged ends, and the hubs agree with the store."""
        for _ in range(8 * len(self.submitted) + 8):
            for number in range(2):
                self.look_at_all(number)
            for name in NAMES:
                if not self.agents[name].session:
                    self.connect(name, self.at[name])
                self.finish(name, True)
                self.report(name)
                self.beat(name)
            self.wait(11.0)
        states = {name: self.store.rows[name].job.state for name in self.submitted}
        assert all(state.ended for state in states.values()), states
        assert sum(self.ended.values()) == len(self.submitted)
        for number in range(2):
            self.look_at_all(number)
            assert not self.hubs[number].core.jobs


Hubs.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestHubs = Hubs.TestCase
