"""One run: a hub, its store, nodes, callers and faults, made from a plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hub.core.dispatch import Dispatch, Rules
from hub.core.jobs import Input, Job, RegionRules, Requirement, Work
from hub.simulation import plans
from hub.simulation.callers import Callers, Truth, Wish
from hub.simulation.hubs import SimulatedHub
from hub.simulation.network import LIMP_S, Line, Network
from hub.simulation.nodes import GIB, Model, SimulatedNode
from hub.simulation.plans import Fault, Plan
from hub.simulation.promises import Broken, Promises
from hub.simulation.store import SimulatedStore
from hub.simulation.stories import Story
from hub.simulation.world import World

WARP = Requirement("warp", "1")
MODELS = (
    Model("NVIDIA L40S", 48 * GIB, 0.25),
    Model("NVIDIA RTX A4000", 16 * GIB, 0.6),
    Model("NVIDIA GeForce RTX 3060", 12 * GIB, 1.0),
    Model("Jetson Orin", 16 * GIB, 1.6),
    Model("", 0, 2.5),
)
PAINS_S = 20.0  # simulated time between two looks at the whole
PATIENCE_S = 400.0  # how long after the faults everything must have ended, beside the work that there still is
SLOWEST = 30.0  # how many times longer than usual a render takes that began on the slowest box when it was ill
FAIR_FROM_S, FAIR_FOR_S = 60.0, 60.0
MakeDispatch = Callable[[Rules, dict[str, float]], Dispatch]


@dataclass
class Outcome:
    """What came of a run."""

    plan: Plan
    steps: int
    simulated_s: float
    jobs: int
    faults: Counter[str] = field(default_factory=Counter)
    broken: Broken | None = None
    digest: int = 0  # runs that are alike have the same

    @property
    def replay(self) -> str:
        return f"python -m hub.simulation --seed {self.plan.seed} --nodes {self.plan.nodes}"


class Fleet:
    """Everything of one run. `make_dispatch` and `store` are parameters so that broken ones can be tried."""

    def __init__(
        self,
        plan: Plan,
        story: Story | None = None,
        make_dispatch: MakeDispatch = Dispatch,
        store: SimulatedStore | None = None,
    ) -> None:
        self.plan = plan
        self.world = World(plan.seed, story)
        self.rules = Rules()
        self.network = Network(self.world)
        self.store = store or SimulatedStore()
        self.store_calm_since_s = -math.inf
        self.in_doubt = False  # the store may have taken what the hub believes it has not
        self.answers_lost = 0.0
        self.truths: dict[str, Truth] = {}
        self.struck: Counter[str] = Counter()
        self._make_dispatch = make_dispatch
        self._lost_answers = 0
        self._ills_since_s: dict[str, float] = {}
        self.nodes = {node.name: node for node in (self._node(number) for number in range(plan.nodes))}
        self.promises = Promises(self)
        self.store.seen = self.promises.wrote
        self.hub = SimulatedHub(self, "hub")
        self.callers = Callers(self)

    def run(self) -> Outcome:
        """From the start to the end of all jobs, or to the first promise that is broken."""
        broken = None
        try:
            self._begin()
            if self.plan.saturated:
                self._run_saturated()
            else:
                self._run_faulty()
        except Broken as found:
            broken = found
        world = self.world
        digest = hash((world.steps, world.now, world.random.random()))  # of numbers only: alike in every process
        return Outcome(self.plan, world.steps, world.now, len(self.store.rows), self.struck, broken, digest)

    def make_dispatch(self) -> Dispatch:
        return self._make_dispatch(self.rules, self.plan.weights)

    def some_hub(self) -> SimulatedHub:
        """The one that a caller reaches."""
        return self.hub

    def hub_for(self, node: SimulatedNode) -> SimulatedHub | None:
        """The one that a node reaches, if any is there."""
        return self.hub if self.hub.up else None

    def answer_is_lost(self) -> bool:
        """Whether the hub does not hear that its transaction was committed."""
        if not self._lost_answers:
            return False
        self._lost_answers -= 1
        self.in_doubt = True
        return True

    def well(self, node: SimulatedNode, for_s: float = 0.0) -> bool:
        """Nothing ails a node or its line, and nothing has for so long."""
        return self._ills_since_s.get(node.name, -math.inf) < self.world.now - for_s

    # Phases.

    def _begin(self) -> None:
        self.hub.start()
        spread_s = 5.0 if self.plan.nodes > 1000 else 2.0
        for node in self.nodes.values():
            self.world.after(self.world.random.uniform(0, spread_s), node.start)

    def _run_faulty(self) -> None:
        wishes = self._wishes()
        for at_s, wish in wishes:
            self.world.after(at_s, self.callers.submit, wish)
        for fault in self.plan.faults:
            self.world.after(fault.at_s, self._strike, fault)
        self._go_on(self.plan.faulty_s)
        self._heal_all()
        work_s = sum(self._usual_s(wish.job) for _, wish in wishes) / max(self._slots(), 1)
        longest_s = max((self._usual_s(wish.job) for _, wish in wishes), default=0.0)
        until_s = self.world.now + PATIENCE_S + 4 * work_s + SLOWEST * longest_s
        while self.world.now < until_s:
            self._go_on(self.world.now + 5)
            if self.promises.all_ended() and not any(node.outbox for node in self.nodes.values()):
                break
        self.promises.final()

    def _run_saturated(self) -> None:
        slots = self._slots()
        for number in range(self.plan.most_jobs):
            wish = self._wish(number, plain=True)
            self.world.after(
                self.world.random.random() * (1 + 60 * number / self.plan.most_jobs), self.callers.submit, wish
            )
        self._go_on(FAIR_FROM_S)
        self.promises.begin_shares()
        self._go_on(FAIR_FROM_S + FAIR_FOR_S)
        self.promises.end_shares()
        waiting = self.hub.dispatch.queue
        if all(waiting.waiting(tenant) > slots for tenant in self.plan.weights):
            self.struck["saturated"] += 1
            self.promises.settle_shares(self.plan.weights)

    def _go_on(self, until_s: float) -> None:
        while self.world.now < until_s:
            look_at_s = min(self.world.now + PAINS_S, until_s)
            while self.world.step(look_at_s):
                pass
            self.promises.check()

    # What there is.

    def _node(self, number: int) -> SimulatedNode:
        random = self.world.random
        name = f"node-{number:04d}"
        self.network.lines[name] = Line(random.uniform(0.001, 0.06), random.choice((2e6, 1e7, 5e7)))
        model = MODELS[number % 3] if number < 3 else random.choice(MODELS)
        slots = 2 if model.memory_bytes >= 48 * GIB else 1
        return SimulatedNode(self, name, f"region-{number % self.plan.regions}", model, slots, (WARP,))

    def _slots(self) -> int:
        return sum(len(node.slots) for node in self.nodes.values())

    def _usual_s(self, job: Job) -> float:
        return job.work.video_s * float((job.work.side_px / 512) ** 1.6) + 2

    def _wishes(self) -> list[tuple[float, Wish]]:
        made: list[tuple[float, Wish]] = []
        capacity = sum(len(node.slots) / node.model.work_s_per_video_s for node in self.nodes.values())
        wanted_s = self.plan.load * capacity * self.plan.faulty_s
        while wanted_s > 0 and len(made) < self.plan.most_jobs:
            wish = self._wish(len(made))
            wanted_s -= self._usual_s(wish.job)
            made.append((self.world.random.uniform(0, self.plan.faulty_s), wish))
        return made

    def _wish(self, number: int, plain: bool = False) -> Wish:
        random = self.world.random
        job_id = f"job-{number:04d}"
        video_s = random.uniform(3, 6) if plain else min(max(random.lognormvariate(2.0, 0.8), 1.0), 60.0)
        side_px = 512 if plain else random.choice((512, 512, 768, 1024))
        inputs = (Input(f"portrait-{random.randrange(20)}", 500_000), Input(f"voice-{number}", 200_000))
        chance = random.random()
        memory = round((4 + 6 * (side_px / 512 - 1)) * GIB)
        self.truths[job_id] = Truth(not plain and chance < 0.03, not plain and chance > 0.98, memory)
        deadline_s = self.world.now + random.uniform(20, 400) if random.random() < 0.15 and not plain else math.inf
        cancels_after_s = random.expovariate(1 / 15) if random.random() < 0.12 and not plain else 0.0
        tenant = random.choice(list(self.plan.weights))
        job = Job(
            job_id,
            tenant,
            WARP,
            0 if plain else random.randint(-10, 10),
            submitted_at_s=0.0,
            sequence=0,
            work=Work(video_s, side_px),
            inputs=inputs,
            regions=RegionRules() if plain else self._regions(),
            deadline_s=deadline_s,
        )
        return Wish(f"key-{number}", job, cancels_after_s)

    def _regions(self) -> RegionRules:
        region = frozenset({f"region-{self.world.random.randrange(self.plan.regions)}"})
        chance = self.world.random.random()
        if chance < 0.1:
            return RegionRules(prefer=region)
        if chance < 0.15:
            return RegionRules(require=region)
        return RegionRules(avoid=region) if chance < 0.2 else RegionRules()

    # Faults.

    def _strike(self, fault: Fault) -> None:
        self.struck[fault.kind] += 1
        node = self.nodes[f"node-{fault.node:04d}"]
        lasts_s = fault.lasts_s
        if self.world.story:
            where = "" if fault.kind.startswith(("hub", "store", "mass")) else node.name
            self.world.tell("fault", f"{fault.kind} {where}, {lasts_s:.1f} s, size {fault.size:.2f}", node_id=where)
        match fault.kind:
            case "crash" | "power_loss":
                node.crash(lasts_s, fault.kind == "power_loss")
            case "partition":
                self._cut(node, lasts_s)
            case "slow_line":
                self._ail(node, lasts_s)
                self.network.lines[node.name].slow = 1 + 200 * fault.size
                self.world.after(lasts_s, setattr, self.network.lines[node.name], "slow", 1.0)
            case "duplicate":
                self.network.repeat_share = fault.size
                self.world.after(lasts_s, setattr, self.network, "repeat_share", 0.0)
            case "reorder":
                self.network.jitter_s = 3 * fault.size
                for one in self.nodes.values():
                    self._ail(one, lasts_s)
                self.world.after(lasts_s, setattr, self.network, "jitter_s", 0.02)
                self._break_stream(node)
            case "node_clock_jump":
                node.jump_clock((fault.size - 0.5) * 10_000)
            case "hub_clock_jump":
                self.hub.clock_off_s += (fault.size - 0.5) * 10_000
            case "disk_full":
                self._ail(node, lasts_s, disk_full=True)
            case "worker_hang":
                self._ail(node, lasts_s, hung=True)
            case "node_freeze":
                self._ail(node, lasts_s)
                node.freeze(lasts_s)
            case "gray_slow":
                self._ail(node, lasts_s, slow=1 + 9 * fault.size)
            case "flaky":
                self._ail(node, lasts_s, breaks=0.3 + 0.7 * fault.size)
            case "drain":
                self._drain(node, lasts_s)
            case "hub_restart" | "hub_host_lost":
                self.hub.kill(min(lasts_s, 60.0), host_lost=fault.kind == "hub_host_lost")
            case "hub_dies_decided" | "hub_dies_committed" | "hub_dies_sending":
                self.hub.doomed = fault.kind.removeprefix("hub_dies_")
            case "mass_vanish" | "region_outage":
                self._vanish(fault, node.region)
            case "store_stall":
                self._stall_store(min(lasts_s, 60.0))
            case "commit_in_doubt":
                self._lost_answers = 1
            case "answers_lost":
                self.answers_lost = fault.size
                self.world.after(lasts_s, setattr, self, "answers_lost", 0.0)

    def _ail(self, node: SimulatedNode, lasts_s: float, **ills: object) -> None:
        self._ills_since_s[node.name] = max(self._ills_since_s.get(node.name, 0.0), self.world.now + lasts_s + 1)
        for name, value in ills.items():
            setattr(node.ills, name, value)
        if ills:
            self.world.after(lasts_s, node.heal)

    def _cut(self, node: SimulatedNode, lasts_s: float) -> None:
        self._ail(node, lasts_s)
        self.network.cut(node.name, lasts_s)
        notices_in_s = self.world.random.uniform(5, LIMP_S)
        if notices_in_s < lasts_s:
            self.world.after(notices_in_s, node.lose_line)

    def _break_stream(self, node: SimulatedNode) -> None:
        """The stream is gone, and its ends notice within moments of each other."""
        if session := node.session:
            session.close_at_node(self.world.random.uniform(0, 3))
            node.ended(session)

    def _vanish(self, fault: Fault, region: str) -> None:
        whole = fault.kind == "mass_vanish"
        for node in self.nodes.values():
            if (whole and self.world.random.random() < 0.4 + fault.size) or (not whole and node.region == region):
                if fault.size < 0.5:
                    self._cut(node, fault.lasts_s * self.world.random.uniform(0.8, 1.2))
                else:
                    self._break_stream(node)

    def _stall_store(self, lasts_s: float) -> None:
        self.store.refuses = True
        self.store_calm_since_s = max(self.store_calm_since_s, self.world.now + lasts_s + 6)  # it tries every 5 s
        self.world.after(lasts_s, setattr, self.store, "refuses", False)

    def _drain(self, node: SimulatedNode, lasts_s: float) -> None:
        self._set_drain(node, True)
        self.world.after(lasts_s, self._set_drain, node, False)

    def _set_drain(self, node: SimulatedNode, drain: bool) -> None:
        known = self.store.nodes.get(node.name)
        if known and known.drain_wanted != drain:
            known.drain_wanted = drain
            self.hub.set_drain(node.name, drain)

    def _heal_all(self) -> None:
        if self.world.story:
            self.world.tell("fault", "all faults are over")
        self.store.refuses = False
        self.network.repeat_share, self.network.jitter_s = 0.0, 0.02
        self.answers_lost, self._lost_answers, self.hub.doomed = 0.0, 0, ""
        self.hub.start()
        for node in self.nodes.values():
            line = self.network.lines[node.name]
            line.slow = 1.0
            if line.cut_until_s > self.world.now:
                line.cut_until_s = 0.0
                self.network.heal(node.name)
            node.heal()
            node.start()
            self._set_drain(node, False)


def run_seed(seed: int, nodes: int | None = None) -> Outcome:
    """One seed, without its story."""
    return Fleet(plans.draw(seed, nodes)).run()
