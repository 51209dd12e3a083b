"""The clock, the nodes with what befalls them, and the sums; and what those are told who decide."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hub.core.faults import Failure, Fault
from hub.core.jobs import Job

PREPARED = 6  # portraits that a worker keeps
LEASE_S = 30.0
MAX_TRIES = 3


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
