"""Simulated callers: they submit, repeat what was not answered, cancel some, and look at what they were promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.core.jobs import Job
from hub.simulation.hubs import Submission

if TYPE_CHECKING:
    from hub.simulation.fleet import Fleet

ANSWER_S = 10.0  # a caller that hears nothing for so long asks again


@dataclass(frozen=True)
class Truth:
    """What is so of a job, and nobody knows before it is rendered."""

    bad_input: bool = False
    poison: bool = False  # breaks every node
    memory_bytes: int = 0


@dataclass
class Wish:
    """One job, as its caller sees it."""

    key: str
    job: Job
    cancels_after_s: float  # 0: never
    job_id: str = ""  # once acknowledged


class Callers:
    """All of them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world
        self.acknowledged = 0
        self.cancelled: set[str] = set()

    def submit(self, wish: Wish) -> None:
        """Ask until it is acknowledged; now and then twice at once."""
        if wish.job_id:
            return
        if self._world.story:
            self._world.tell("caller", f"submits with key {wish.key}, tenant {wish.job.tenant}", wish.job.job_id)
        for _ in range(2 if self._world.random.random() < 0.05 else 1):
            request = Submission(wish.key, wish.job, lambda job_id: self._answer(wish, job_id))
            self._world.after(self._world.random.random() * 0.01, self._fleet.some_hub().submit, request)
        self._world.after(ANSWER_S, self.submit, wish)

    def _answer(self, wish: Wish, job_id: str) -> None:
        if self._world.random.random() < self._fleet.answers_lost:
            return
        self._world.after(self._world.random.random() * 0.01, self._answered, wish, job_id)

    def _answered(self, wish: Wish, job_id: str) -> None:
        if not job_id or wish.job_id:
            if job_id:
                self._fleet.promises.same_job(wish.key, wish.job_id, job_id)
            return
        wish.job_id = job_id
        self.acknowledged += 1
        self._fleet.promises.acknowledged(job_id)
        if self._world.story:
            self._world.tell("caller", "has it acknowledged", job_id)
        self._world.after(self._world.random.uniform(0.5, 5), self._look, job_id, 0)
        if wish.cancels_after_s:
            self._world.after(wish.cancels_after_s, self._cancel, job_id)

    def _look(self, job_id: str, looks: int) -> None:
        if not self._fleet.promises.seen(job_id):
            pause_s = min(2.0 * 1.3**looks, 15.0)
            self._world.after(pause_s * self._world.random.uniform(0.5, 1.5), self._look, job_id, looks + 1)

    def _cancel(self, job_id: str) -> None:
        if self._world.story:
            self._world.tell("caller", "cancels it", job_id)
        self.cancelled.add(job_id)
        self._fleet.some_hub().cancel(job_id, lambda done: self._cancel_answered(job_id, done))

    def _cancel_answered(self, job_id: str, done: bool) -> None:
        if done:
            self._fleet.promises.cancel_acknowledged(job_id)
        else:
            self._world.after(1.0, self._cancel, job_id)
