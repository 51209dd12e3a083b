"""Which node a job should go to: four weeks of jobs on an unlike fleet with faults, under our placement and others'.

Everything is simulated and drawn from one seed; every policy meets the same jobs, nodes and faults. 24 nodes in three
regions, six classes of GPU whose speeds differ tenfold and a box without one, render 3 s to 10 min of video at three
sizes; some crash, are slow or hot for hours, or break half of what they get, and once a region is cut off. Demand
has days, weekends and bursts, so that queues come and go.

- `ours` is the hub's own Dispatch: jobs wait in its queue, and go to the slot where they are expected to finish first.
- `round_robin`, `random`, `least_loaded`, `two_choices` are what routers in front of such fleets do: a job is sent on
  at once to a node that has the memory for it and is connected, and waits there. So that they are not beaten for want
  of a setting that any operator would make, all of them weigh nodes by the speed of their probe clip, as with `weight=`
  in nginx or LVS: round robin is smooth weighted, random is drawn by weight, the others compare jobs on the node over
  its weight. The work that waits on a node that is lost is sent elsewhere after 30 s, as ours is.
- `late` (with --late) holds the same four rules for the choice among slots that are free, unweighted, in the place of
  ours in the hub's Dispatch: same queue, retries, breakers and memory rules. What is left is the choice alone.

Completion is from submission to the committed result, of jobs without a deadline: those with one may be dropped by
ours, and are told in `deadline_misses`. A job that is given up after three tries is submitted anew by its caller, and
its clock goes on. `wasted_gpu_s` are seconds of renders that brought nothing: broken, lost, or done after the deadline.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hub.core import dispatch, events, instructions, placement
from hub.core.dispatch import Dispatch, Rules
from hub.core.faults import Failure, Fault
from hub.core.health import GpuReading
from hub.core.jobs import Input, Job, Ref, Requirement, Work
from hub.core.nodes import Gpu, Slot, SlotState

ENGINE = Requirement("sonic", "1")
GIB = 1 << 30
HOUR_S, DAY_S, WEEK_S = 3600.0, 86_400.0, 7 * 86_400.0
LEASE_S = 30.0
MAX_TRIES = 3
PREPARED = 6  # portraits that a worker keeps
HEARTBEAT_S = 900.0  # leases are ended by hand, so heartbeats need only tell of heat
TICK_S = 60.0
dispatch._LOOK_AGAIN_S = 300.0  # renders take minutes here, where a real hub's may take seconds
CLASSES = (  # name, memory, seconds of work for a second of video at 512 px, how many
    ("NVIDIA L40S", 48, 15.0, 2),
    ("NVIDIA GeForce RTX 4090", 24, 18.0, 4),
    ("NVIDIA RTX A4000", 16, 36.0, 5),
    ("NVIDIA GeForce RTX 3060", 12, 60.0, 6),
    ("NVIDIA T4", 16, 90.0, 2),
    ("Jetson Orin", 16, 150.0, 4),
    ("", 0, 400.0, 1),
)
SIZES = ((512, 0.6, 6.5), (768, 0.25, 10.0), (1024, 0.15, 14.5))  # short side, share of jobs, GiB
TENANTS = ("studio", "school", "shop", "news", "games")


@dataclass(frozen=True)
class Task:
    """One job, and what is so of it whoever renders it."""

    number: int
    at_s: float
    job: Job
    memory_bytes: int
    luck: tuple[float, ...]  # for its tries, one after the other


@dataclass
class Box:
    """One node, and what befalls it."""

    name: str
    region: str
    gpu_class: str
    memory_bytes: int
    rate: float
    bytes_per_s: float
    away: list[tuple[float, float, bool]] = field(default_factory=list)  # from, until, whether what runs is lost
    slow: list[tuple[float, float, float]] = field(default_factory=list)  # from, until, how many times
    hot: list[tuple[float, float]] = field(default_factory=list)
    flaky: list[tuple[float, float]] = field(default_factory=list)
    up: bool = True
    run: Run | None = None
    outbox: list[Run] = field(default_factory=list)
    prepared: dict[str, None] = field(default_factory=dict)
    cached: dict[str, None] = field(default_factory=dict)

    @property
    def probe_factor(self) -> float:
        return 0.5 / (0.5 + 0.5 * self.rate * 0.25)

    def slowness(self, now: float) -> float:
        return math.prod(factor for since, until, factor in self.slow if since <= now < until)


@dataclass(eq=False)
class Run:
    """One try on one node."""

    task: Task
    attempt: int
    box: Box
    began_s: float
    warm: bool
    preparing_s: float
    failure: Failure | None
    over: bool = False


class Plant:
    """The clock, the nodes, and the sums."""

    def __init__(self, boxes: list[Box], tasks: list[Task], make_policy: Callable[[Plant], Policy]) -> None:
        self.now = 0.0
        self.boxes = boxes
        self.tasks = tasks
        self.done_at_s: dict[int, float] = {}
        self.wasted_s = 0.0
        self.worked_s = 0.0
        self.gave_up = 0
        self._plans: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.policy = make_policy(self)

    def at(self, at_s: float, act: Callable[..., None], *about: Any) -> None:
        self._number += 1
        heapq.heappush(self._plans, (at_s, self._number, act, about))

    def run(self) -> dict[str, float]:
        for box in self.boxes:
            for since, until, lost in box.away:
                self.at(since, self._leave, box, lost)
                self.at(until, self._return, box)
        self.policy.begin()
        waiting = iter(self.tasks)
        following = next(waiting, None)
        while len(self.done_at_s) < len(self.tasks):
            if following and (not self._plans or following.at_s <= self._plans[0][0]):
                self.now = following.at_s
                self.policy.submitted(following)
                following = next(waiting, None)
                continue
            self.now, _, act, about = heapq.heappop(self._plans)
            act(*about)
        return self._sums()

    def start(self, task: Task, attempt: int, box: Box) -> None:
        """Fetch, prepare and render; the policy hears of the end."""
        inputs = task.job.inputs
        fetch_s = sum(item.size_bytes for item in inputs if item.sha256 not in box.cached) / box.bytes_per_s
        box.cached.update(dict.fromkeys(item.sha256 for item in inputs))
        warm = inputs[0].sha256 in box.prepared
        luck = task.luck[min(attempt, len(task.luck)) - 1]
        pace = box.slowness(self.now) * math.exp(0.12 * math.sin(1e4 * luck))  # no two renders are alike
        work = task.job.work
        preparing_s = 0.0 if warm else 0.8 * box.rate * pace
        render_s = (1.0 + box.rate * (work.side_px / 512) ** 1.8 * work.video_s) * pace
        failure = None
        if box.memory_bytes and box.memory_bytes < task.memory_bytes:
            failure = Failure(Fault.OUT_OF_MEMORY, "OUT_OF_MEMORY", "CUDA out of memory")
        elif luck < 0.5 and any(since <= self.now < until for since, until in box.flaky):
            failure = Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died")
        box.run = Run(task, attempt, box, self.now, warm, preparing_s, failure)
        self.at(self.now + fetch_s, self.policy.began, box.run)
        whole_s = fetch_s + preparing_s + render_s
        self.at(self.now + (whole_s * (0.1 + luck) if failure else whole_s), self._end, box.run)

    def stop(self, run: Run) -> None:
        """Nobody wants it any more."""
        if not run.over:
            self._over(run, useful=False)

    def succeeded(self, run: Run) -> None:
        """Its result has reached the hub; the first one counts."""
        number = run.task.number
        if number not in self.done_at_s:
            self.done_at_s[number] = self.now

    def dropped(self, task: Task) -> None:
        """It will never be done."""
        self.done_at_s.setdefault(task.number, math.inf)

    def _end(self, run: Run) -> None:
        if run.over:
            return
        good = run.failure is None
        first = run.task.number not in self.done_at_s
        self._over(run, useful=good and first and self.now <= run.task.job.deadline_s)
        if good:
            run.box.prepared[run.task.job.inputs[0].sha256] = None
            while len(run.box.prepared) > PREPARED:
                del run.box.prepared[next(iter(run.box.prepared))]
        if run.box.up:
            self.policy.ended(run)
        else:
            run.box.outbox.append(run)

    def _over(self, run: Run, useful: bool) -> None:
        run.over = True
        took_s = self.now - run.began_s
        self.worked_s += took_s
        self.wasted_s += 0.0 if useful else took_s
        if run.box.run is run:
            run.box.run = None

    def _leave(self, box: Box, lost: bool) -> None:
        run = box.run if lost else None
        if run:
            self._over(run, useful=False)
        if lost:
            box.prepared.clear()
        if box.up:
            box.up = False
            self.policy.left(box)
        if run:
            self.policy.lost(run)

    def _return(self, box: Box) -> None:
        if not any(since <= self.now < until for since, until, _ in box.away):
            box.up = True
            outbox, box.outbox = box.outbox, []
            self.policy.returned(box, outbox)

    def _sums(self) -> dict[str, float]:
        plain = [task for task in self.tasks if task.job.deadline_s == math.inf]
        took = sorted(self.done_at_s[task.number] - task.at_s for task in plain)
        missed = sum(self.done_at_s[task.number] > task.job.deadline_s for task in self.tasks)
        return {
            "p50_s": round(took[len(took) // 2], 1),
            "p95_s": round(took[len(took) * 95 // 100], 1),
            "p99_s": round(took[len(took) * 99 // 100], 1),
            "wasted_gpu_s": round(self.wasted_s),
            "deadline_misses": missed,
            "worked_s": round(self.worked_s),
            "gave_up": self.gave_up,
        }


class Policy:
    """What a plant tells those who decide."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant

    def begin(self) -> None: ...

    def submitted(self, task: Task) -> None: ...

    def began(self, run: Run) -> None: ...

    def ended(self, run: Run) -> None: ...

    def left(self, box: Box) -> None: ...

    def lost(self, run: Run) -> None: ...

    def returned(self, box: Box, outbox: list[Run]) -> None: ...


class AtOnce(Policy):
    """A router: jobs are sent on as they come, and wait at their node."""

    def __init__(self, plant: Plant, choose: Callable[[AtOnce, list[Box]], Box], seed: int) -> None:
        super().__init__(plant)
        self.random = Random(seed)
        self.turns = dict.fromkeys((box.name for box in plant.boxes), 0.0)
        self.lines: dict[str, deque[tuple[Task, int]]] = {box.name: deque() for box in plant.boxes}
        self._choose = choose
        self._tries: dict[int, int] = {}

    def load(self, box: Box) -> float:
        """Jobs there, with one more, over its weight."""
        return (len(self.lines[box.name]) + (box.run is not None) + 1) / box.probe_factor

    def submitted(self, task: Task) -> None:
        self._send(task, 1, "")

    def ended(self, run: Run) -> None:
        if run.failure is None:
            self.plant.succeeded(run)
        else:
            self._again(run.task, run.attempt, run.box.name)
        self._go_on(run.box)

    def left(self, box: Box) -> None:
        self.plant.at(self.plant.now + LEASE_S, self._send_elsewhere, box)

    def lost(self, run: Run) -> None:
        self.plant.at(self.plant.now + LEASE_S, self._again, run.task, run.attempt, run.box.name)

    def returned(self, box: Box, outbox: list[Run]) -> None:
        for run in outbox:
            self.ended(run)
        self._go_on(box)

    def _send_elsewhere(self, box: Box) -> None:
        if box.up:
            return
        line, self.lines[box.name] = self.lines[box.name], deque()
        for task, attempt in line:
            self._send(task, attempt, box.name)
        if box.run:
            self._send(box.run.task, box.run.attempt + 1, box.name)

    def _send(self, task: Task, attempt: int, not_to: str) -> None:
        if task.number in self.plant.done_at_s:
            return
        able = [b for b in self.plant.boxes if b.up and not 0 < b.memory_bytes < task.memory_bytes]
        able = [box for box in able if box.name != not_to] or able
        if not able:
            self.plant.at(self.plant.now + LEASE_S, self._send, task, attempt, not_to)
            return
        box = self._choose(self, able)
        self.lines[box.name].append((task, attempt))
        self._go_on(box)

    def _again(self, task: Task, attempt: int, not_to: str) -> None:
        tries = self._tries[task.number] = self._tries.get(task.number, 0) + 1
        if tries % MAX_TRIES == 0:
            self.plant.gave_up += 1
        pause_s = float(2 ** ((tries - 1) % MAX_TRIES))
        self.plant.at(self.plant.now + pause_s, self._send, task, attempt + 1, not_to)

    def _go_on(self, box: Box) -> None:
        line = self.lines[box.name]
        while box.up and box.run is None and line:
            task, attempt = line.popleft()
            if task.number not in self.plant.done_at_s:
                self.plant.start(task, attempt, box)


def round_robin(router: AtOnce, able: list[Box]) -> Box:
    """Smooth and weighted, as nginx does it."""
    for box in able:
        router.turns[box.name] += box.probe_factor
    best = max(able, key=lambda box: router.turns[box.name])
    router.turns[best.name] -= sum(box.probe_factor for box in able)
    return best


def random(router: AtOnce, able: list[Box]) -> Box:
    return router.random.choices(able, [box.probe_factor for box in able])[0]


def least_loaded(router: AtOnce, able: list[Box]) -> Box:
    return min(able, key=router.load)


def two_choices(router: AtOnce, able: list[Box]) -> Box:
    return min(router.random.choices(able, [box.probe_factor for box in able], k=2), key=router.load)


class Late(Policy):
    """The hub's decisions: jobs wait with it. `place` chooses the slot."""

    def __init__(self, plant: Plant, place: Callable[[Job, placement.Round], placement.Placement]) -> None:
        super().__init__(plant)
        rules = Rules(lease_s=1e9, max_tries=MAX_TRIES, settle_s=1e9, heartbeat_interval_s=HEARTBEAT_S)
        self.hub = Dispatch(rules, place=place)
        self.boxes = {box.name: box for box in plant.boxes}
        self.tasks: dict[str, Task] = {}
        self.runs: dict[Ref, Run] = {}
        self.sessions = 0

    def begin(self) -> None:
        for box in self.boxes.values():
            self._join(box, ())
            self.plant.at(HEARTBEAT_S * Random(box.name).random(), self._beat, box)
        self.plant.at(TICK_S, self._tick, True)

    def submitted(self, task: Task) -> None:
        self.tasks[task.job.job_id] = task
        self._happens(events.JobStored(task.job))

    def began(self, run: Run) -> None:
        if not run.over and run.box.up:
            self._happens(events.AttemptStarted(run.box.name, Ref(run.task.job.job_id, run.attempt)))

    def ended(self, run: Run) -> None:
        name, ref = run.box.name, self._ref(run)
        if run.failure:
            self._happens(events.AttemptFailed(name, ref, run.failure))
            self._beat_now(run.box)  # its worker is there again
            return
        self.plant.succeeded(run)
        took_s = self.plant.now - run.began_s - run.preparing_s
        memory = run.task.memory_bytes if run.box.memory_bytes else 0
        rendered = events.Rendered(run.task.job.work.video_s, took_s, run.preparing_s, run.warm, memory)
        self._happens(events.AttemptSucceeded(name, ref, b"", rendered))

    def left(self, box: Box) -> None:
        self._happens(events.NodeCut(box.name, self.hub.nodes[box.name].session_id))
        self.plant.at(self.plant.now + LEASE_S, self._lost, box)

    def returned(self, box: Box, outbox: list[Run]) -> None:
        self._join(box, tuple(self._ref(run) for run in outbox))
        for run in outbox:
            self.ended(run)

    def _lost(self, box: Box) -> None:
        """Leases are not renewed one by one here; they end when those of a real node would."""
        if not box.up:
            for job in self.hub.jobs.values():
                if job.node_id == box.name and job.held:
                    job.lease_expires_at_s = self.plant.now
            self._tick(False)
            for pause_s in (1.0, 2.0, 4.0, 30.0):
                self.plant.at(self.plant.now + pause_s + 0.001, self._tick, False)

    def _join(self, box: Box, finished: tuple[Ref, ...]) -> None:
        self.sessions += 1
        running = (self._ref(box.run),) if box.run else ()
        gpus = (Gpu(box.name, box.gpu_class, box.memory_bytes),) if box.gpu_class else ()
        session = f"session-{self.sessions}"
        slots, inputs = self._slots(box), tuple(reversed(box.cached))[:256]
        self._happens(events.NodeJoined(box.name, box.region, session, slots, running, finished, False, gpus, inputs))

    def _beat(self, box: Box) -> None:
        if box.up:
            self._beat_now(box)
        self.plant.at(self.plant.now + HEARTBEAT_S, self._beat, box)

    def _beat_now(self, box: Box) -> None:
        hot = any(since <= self.plant.now < until for since, until in box.hot)
        throttled = ("sw_thermal_slowdown",) if hot else ()
        reading = GpuReading(
            box.name, box.gpu_class, temperature_celsius=89.0 if hot else 65.0, throttle_reasons=throttled
        )
        held = (self._ref(box.run),) if box.run else ()
        session = self.hub.nodes[box.name].session_id
        readings = (reading,) if box.gpu_class else ()
        self._happens(events.NodeHeard(box.name, session, self._slots(box), held, readings))

    def _slots(self, box: Box) -> tuple[Slot, ...]:
        state = SlotState.BUSY if box.run else SlotState.READY
        return (Slot(0, state, (ENGINE,), box.probe_factor, "", box.name if box.gpu_class else ""),)

    def _tick(self, again: bool) -> None:
        self._happens(events.Ticked())
        if again:
            self.plant.at(self.plant.now + TICK_S, self._tick, True)

    def _happens(self, event: events.Event) -> None:
        now = self.plant.now
        wanted = self.hub.handle(event, now)
        if not isinstance(event, events.AttemptStarted):
            wanted += self.hub.assign(now)
        for item in wanted:
            match item:
                case instructions.Assign(ref, node_id):
                    box = self.boxes[node_id]
                    assert box.run is None
                    self.plant.start(self.tasks[ref.job_id], ref.attempt, box)
                case instructions.Requeue(ref):
                    self.plant.at(now + 2.0 ** min(ref.attempt - 1, 5) + 0.001, self._tick, False)
                case instructions.CommitFailure(ref, failure):
                    self._gave_up(ref, failure)
                case instructions.StopAttempt(node_id, ref):
                    run = self.boxes[node_id].run
                    if run and self._ref(run) == ref:
                        self.plant.stop(run)
                        self.plant.at(now + 0.5, self._happens, events.AttemptStopped(node_id, ref))
                case instructions.SendProbe(node_id, probe_id, slot):
                    self.plant.at(now + 10.0, self._probed, node_id, probe_id, slot)

    def _gave_up(self, ref: Ref, failure: Failure) -> None:
        task = self.tasks[ref.job_id]
        if failure.fault is Fault.DEADLINE:
            self.plant.dropped(task)
            return
        self.plant.gave_up += 1
        job = replace(task.job, job_id=f"{task.job.job_id}+")
        anew = replace(task, job=job, luck=task.luck[1:] + task.luck[:1])
        self.plant.at(self.plant.now + 1.0, self.submitted, anew)

    def _probed(self, node_id: str, probe_id: str, slot: int) -> None:
        box, now = self.boxes[node_id], self.plant.now
        if not box.up:
            return
        luck = Random(f"{probe_id} {now}").random()
        broken = luck < 0.5 and any(since <= now < until for since, until in box.flaky)
        failure = Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died") if broken else None
        factor = 0.0 if broken else box.probe_factor / box.slowness(now)
        self._happens(events.Probed(node_id, probe_id, slot, factor, "" if broken else "clip", failure))

    @staticmethod
    def _ref(run: Run) -> Ref:
        return Ref(run.task.job.job_id, run.attempt)


class FreeSlots:
    """Another rule for the choice among the slots that are free and can take the job."""

    def __init__(self, rule: str, seed: int) -> None:
        self._rule = rule
        self._random = Random(seed)
        self._last = ""

    def __call__(self, job: Job, at: placement.Round) -> placement.Placement:
        pools, barred = placement.able_pools(job, at)
        free = sorted((key, number) for number, pool in enumerate(pools) for key in pool.free if key[0] != barred)
        if not free:
            return placement.Placement(None)
        key, number = self._pick(free, pools)
        self._last = key[0]
        nothing = placement.NOTHING
        return placement.Placement(placement.Option(pools[number], key, True, 0.0, nothing, nothing, False, 1.0))

    def _pick(self, free: list[tuple[Any, int]], pools: list[Any]) -> tuple[Any, int]:
        if self._rule == "round_robin":
            names = [key[0] for key, _ in free]
            return free[bisect_right(names, self._last) % len(free)]
        if self._rule == "two_choices":
            return min(self._random.choices(free, k=2), key=lambda entry: pools[entry[1]].traits.pace)
        return self._random.choice(free)  # one slot a node: all free ones are loaded alike


def fleet(seed: int, weeks: float) -> list[Box]:
    """The nodes, and what befalls them."""
    drawn = Random(f"fleet {seed}")
    boxes: list[Box] = []
    for gpu_class, memory, rate, count in CLASSES:
        for _ in range(count):
            region = ("eu", "us", "asia")[len(boxes) % 3]
            own = rate * drawn.lognormvariate(0, 0.1)
            line = drawn.choice((1e6, 5e6, 2e7))
            boxes.append(Box(f"node-{len(boxes):02d}", region, gpu_class, memory * GIB, own, line))
    end_s = weeks * WEEK_S
    for box in boxes:
        for since in _moments(drawn, 1 / WEEK_S, end_s):
            box.away.append((since, since + drawn.uniform(30, 1800), True))
        for since in _moments(drawn, 0.5 / WEEK_S, end_s):
            box.slow.append((since, since + drawn.uniform(2, 12) * HOUR_S, drawn.uniform(2, 6)))
        for since in _moments(drawn, 0.3 / WEEK_S, end_s):
            box.flaky.append((since, since + drawn.uniform(3, 24) * HOUR_S))
        if drawn.random() < 0.25:
            for day in range(math.ceil(end_s / DAY_S)):
                since = day * DAY_S + drawn.uniform(12, 14) * HOUR_S
                until = since + drawn.uniform(2, 5) * HOUR_S
                box.hot.append((since, until))
                box.slow.append((since, until, drawn.uniform(1.2, 1.8)))
    cut_s = drawn.uniform(0.2, 0.8) * end_s
    for box in boxes:
        if box.region == "us":
            box.away.append((cut_s + drawn.random(), cut_s + 2400 + 5 * drawn.random(), False))
    return boxes


def demand(seed: int, weeks: float, load: float, boxes: list[Box]) -> list[Task]:
    """The jobs: days, weekends, bursts, and portraits that come again."""
    drawn = Random(f"demand {seed}")
    end_s = weeks * WEEK_S
    size_work = sum(share * (side / 512) ** 1.8 for side, share, _ in SIZES)
    per_s = load * sum(1 / box.rate for box in boxes) / (21.0 * size_work)
    moments = [at for at in _moments(drawn, 1.6 * per_s * 0.85, end_s) if drawn.random() < _rhythm(at) / 1.6]
    for since in _moments(drawn, 2 / DAY_S, end_s):
        moments += [
            since + drawn.uniform(0, 600) for _ in range(round(drawn.uniform(0.02, 0.09) * per_s * 24 * HOUR_S / 2))
        ]
    moments.sort()
    return [_task(drawn, number, at_s) for number, at_s in enumerate(moments)]


def _task(drawn: Random, number: int, at_s: float) -> Task:
    side_px, _, gib = drawn.choices(SIZES, [share for _, share, _ in SIZES])[0]
    video_s = min(max(drawn.lognormvariate(math.log(14), 0.9), 3.0), 600.0)
    tenant = drawn.choice(TENANTS)
    portrait = round(1 / (0.003 + drawn.random()))  # some faces are seen often
    inputs = (Input(f"{tenant}-face-{portrait}", 1_500_000), Input(f"voice-{number}", round(30_000 * video_s)))
    usual_s = 50.0 * (side_px / 512) ** 1.8 * video_s
    deadline_s = at_s + 300 + usual_s * drawn.uniform(1, 4) if drawn.random() < 0.15 else math.inf
    job = Job(f"job-{number}", tenant, ENGINE, 0, at_s, number, Work(video_s, side_px), inputs, deadline_s=deadline_s)
    return Task(number, at_s, job, round(gib * GIB), tuple(drawn.random() for _ in range(6)))


def _rhythm(at_s: float) -> float:
    """How much is asked for, against the mean of a working day."""
    weekend = (at_s // DAY_S) % 7 >= 5
    return (1 + 0.5 * math.sin(2 * math.pi * (at_s / DAY_S - 0.3))) * (0.5 if weekend else 1.0)


def _moments(drawn: Random, per_s: float, end_s: float) -> Iterator[float]:
    at_s = drawn.expovariate(per_s)
    while at_s < end_s:
        yield at_s
        at_s += drawn.expovariate(per_s)


RULES: dict[str, Callable[[AtOnce, list[Box]], Box]] = {
    "round_robin": round_robin,
    "random": random,
    "least_loaded": least_loaded,
    "two_choices": two_choices,
}


def measure(name: str, seed: int, weeks: float, load: float) -> dict[str, float]:
    """One policy."""
    boxes = fleet(seed, weeks)
    tasks = demand(seed, weeks, load, boxes)

    def policy(plant: Plant) -> Policy:
        if name == "ours":
            return Late(plant, placement.place)
        if name.startswith("late "):
            return Late(plant, FreeSlots(name.removeprefix("late "), seed))
        return AtOnce(plant, RULES[name], seed)

    plant = Plant(boxes, tasks, policy)
    sums = plant.run()
    return sums | {"jobs": len(tasks), "utilisation": round(sums["worked_s"] / (len(boxes) * weeks * WEEK_S), 3)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1, help="what everything is drawn from (default: 1)")
    options.add_argument("--weeks", type=float, default=4.0, help="of jobs (default: 4)")
    options.add_argument(
        "--load", type=float, default=0.85, help="share of the fleet's capacity asked for (default: 0.85)"
    )
    options.add_argument("--late", action="store_true", help="also the other rules with the hub's own queue")
    given = options.parse_args()
    names = ["ours", *RULES, *(f"late {rule}" for rule in RULES if given.late)]
    with ProcessPoolExecutor(2) as pool:
        begun = {name: pool.submit(measure, name, given.seed, given.weeks, given.load) for name in names}
        found = {name: future.result() for name, future in begun.items()}
    told: dict[str, Any] = {name: found[name] for name in ("ours", *RULES)}
    if given.late:
        told["late"] = {rule: found[f"late {rule}"] for rule in RULES}
    for rule in RULES:
        told[f"p99_to_{rule}"] = round(found["ours"]["p99_s"] / found[rule]["p99_s"], 3)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
