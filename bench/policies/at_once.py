"""What routers in front of such fleets do: a job is sent on as it comes, and waits at its node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from bench.policies.plant import LEASE_S, MAX_TRIES, Box, Plant, Policy, Run, Task


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


RULES: dict[str, Callable[[AtOnce, list[Box]], Box]] = {
    "round_robin": round_robin,
    "random": random,
    "least_loaded": least_loaded,
    "two_choices": two_choices,
}
