"""No sequence of events loses an acknowledged job or ends one twice.

The real decisions and the store's conditional updates run against agents that crash, are cut off, repeat themselves and
finish while offline, and a hub that is killed between any two events. Messages from the hub may be lost with a session.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hub.core import events, instructions
from hub.core.dispatch import Dispatch, Rules
from hub.core.faults import Failure, Fault
from hub.core.jobs import Ref, State
from hub.core.nodes import Node, SlotState
from hub.testing import MemoryStore

from .talk import job, slot

NODES = st.sampled_from(["n1", "n2", "n3"])
RULES = Rules(lease_s=30, max_tries=3, backoff_s=1, settle_s=10)
ENDS = (instructions.CommitSuccess, instructions.CommitFailure, instructions.CommitCancel)


@dataclass
class Agent:
    """What survives a cut is in `running` and `outbox`; what survives a crash is in `outbox`."""

    name: str
    session: str = ""
    running: Ref | None = None
    outbox: dict[Ref, bool] = field(default_factory=dict)  # True: a video, False: a failure

    @property
    def slots(self):
        return (slot(state=SlotState.BUSY if self.running else SlotState.READY),)


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.hub = Dispatch(RULES)
        self.now = 0.0
        self.agents = {name: Agent(name) for name in ("n1", "n2", "n3")}
        self.ended: Counter[str] = Counter()
        self.submitted: set[str] = set()
        self.sessions = 0

    def happens(self, event: events.Event, hub_survives: bool = True) -> None:
        """One batch of the dispatcher: decide, commit, then send, unless the hub is killed in between."""
        wanted = [*self.hub.handle(event, self.now), *self.hub.assign(self.now)]
        sends: list[tuple[instructions.Instruction, instructions.Verdict | None]] = []
        for item in wanted:
            if not isinstance(item, instructions.Write):
                sends.append((item, None))
                continue
            outcome = self.store.apply(item)
            if outcome.applied and isinstance(item, ENDS):
                self.ended[item.job_id if isinstance(item, instructions.CommitCancel) else item.ref.job_id] += 1
            if isinstance(item, instructions.CommitSuccess):
                sends.append((item, outcome.verdict))
            elif not outcome.applied:
                raise AssertionError(f"the only hub's decision was refused by the store: {item}")
            elif isinstance(item, instructions.Assign):
                sends.append((item, None))
        if not hub_survives:
            self.restart_hub()
            return
        for item, _ in sends:
            self.deliver(item)

    def deliver(self, item: instructions.Instruction) -> None:
        match item:
            case instructions.Assign(ref, node_id):
                agent = self.agents[node_id]
                if agent.session and not agent.running:
                    agent.running = ref
                elif agent.session:
                    agent.outbox[ref] = False  # declined
            case instructions.StopAttempt(node_id, ref):
                agent = self.agents[node_id]
                if agent.session and agent.running == ref:
                    agent.running = None
                    self.happens(events.AttemptStopped(node_id, ref))
            case instructions.CommitSuccess(ref, node_id) | instructions.Acknowledge(node_id, ref):
                if self.agents[node_id].session:
                    self.agents[node_id].outbox.pop(ref, None)

    @rule(priority=st.integers(-10, 10), tenant=st.sampled_from("ab"), survives=st.booleans())
    def submit(self, priority: int, tenant: str, survives: bool) -> None:
        name = f"job{len(self.submitted)}"
        new = replace(job(name, tenant=tenant, at=self.now, priority=priority), sequence=len(self.submitted))
        self.store.add(replace(new))
        self.submitted.add(name)
        self.happens(events.JobStored(new), survives)

    @rule(number=st.integers(0, 30), survives=st.booleans())
    def cancel(self, number: int, survives: bool) -> None:
        self.happens(events.CancelRequested(f"job{number}"), survives)

    @rule(name=NODES, survives=st.booleans())
    def connect(self, name: str, survives: bool = True) -> None:
        agent = self.agents[name]
        self.sessions += 1
        agent.session = f"session{self.sessions}"
        running = (agent.running,) if agent.running else ()
        finished = tuple(agent.outbox)
        self.happens(events.NodeJoined(name, "eu", agent.session, agent.slots, running, finished), survives)

    @rule(name=NODES)
    def cut(self, name: str) -> None:
        agent, session = self.agents[name], self.agents[name].session
        agent.session = ""
        if session:
            self.happens(events.NodeCut(name, session))

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

    @rule(name=NODES, survives=st.booleans())
    def begin(self, name: str, survives: bool) -> None:
        agent = self.agents[name]
        if agent.session and agent.running:
            self.happens(events.AttemptStarted(name, agent.running), survives)

    @rule(name=NODES)
    def beat(self, name: str) -> None:
        agent = self.agents[name]
        if agent.session:
            held = ((agent.running,) if agent.running else ()) + tuple(agent.outbox)
            self.happens(events.NodeHeard(name, agent.session, agent.slots, held))

    @rule(name=NODES, survives=st.booleans())
    def report(self, name: str, survives: bool = True) -> None:
        agent = self.agents[name]
        for ref, works in list(agent.outbox.items()) if agent.session else ():
            if works:
                self.happens(events.AttemptSucceeded(name, ref, b""), survives)
            else:
                failure = Failure(Fault.CRASH, "CRASH", "it broke")
                self.happens(events.AttemptFailed(name, ref, failure), survives)
            if not survives:
                break

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]), survives=st.booleans())
    def wait(self, seconds: float, survives: bool = True) -> None:
        self.now += seconds
        self.happens(events.Ticked(), survives)

    @rule()
    def restart_hub(self) -> None:
        """Killed: what was decided is in the store, what was to be sent is not sent, and every session is gone."""
        for agent in self.agents.values():
            agent.session = ""
        self.hub = Dispatch(RULES)
        known = tuple(Node(name, "eu") for name in self.agents)
        self.happens(events.Loaded(tuple(replace(live) for live in self.store.live()), known))

    @invariant()
    def no_job_ends_twice(self) -> None:
        assert all(times == 1 for times in self.ended.values()), self.ended

    @invariant()
    def hub_and_store_agree(self) -> None:
        stored = {row.job_id: (row.state, row.attempt, row.tries) for row in self.store.live()}
        assert {j.job_id: (j.state, j.attempt, j.tries) for j in self.hub.jobs.values()} == stored

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        for live in self.hub.jobs.values():
            places = [live.held, live in self.hub.queue, live.job_id in self.hub._not_before]
            assert sum(places) == 1, (live, places)

    def teardown(self) -> None:
        """Once the faults end, every job that was acknowledged ends."""
        for _ in range(8 * len(self.submitted) + 8):
            for name in self.agents:
                if not self.agents[name].session:
                    self.connect(name, True)
                self.finish(name, True)
                self.report(name, True)
                self.beat(name)
            self.wait(11.0, True)
        states = {name: self.store.rows[name].job.state for name in self.submitted}
        assert all(state.ended for state in states.values()), states
        assert sum(self.ended.values()) == len(self.submitted)
        won = {name for name, state in states.items() if state is State.SUCCEEDED}
        assert all(self.store.rows[name].won_by for name in won)


Fleet.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestFleet = Fleet.TestCase
