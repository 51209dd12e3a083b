"""Simulated time: what is to happen lies in a heap, and the clock jumps from one thing to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from hub.simulation.stories import Story


class World:
    """The clock, the dice and what is still to happen. Whatever falls on the same instant happens as it was planned."""

    def __init__(self, seed: int, story: Story | None = None) -> None:
        self.now = 0.0
        self.steps = 0
        self.random = Random(seed)  # noqa: S311 (chance that can be repeated is the point)
        self.story = story
        self._plans: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def after(self, seconds: float, act: Callable[..., None], *about: Any) -> None:
        """Let something happen that many seconds from now."""
        self._number += 1
        heapq.heappush(self._plans, (self.now + seconds, self._number, act, about))

    def step(self, until_s: float) -> bool:
        """Let the next thing happen, if it falls before `until_s`."""
        if not self._plans or self._plans[0][0] > until_s:
            self.now = max(self.now, until_s)
            return False
        self.now, _, act, about = heapq.heappop(self._plans)
        self.steps += 1
        act(*about)
        return True

    def tell(self, who: str, text: str, job_id: str = "", node_id: str = "") -> None:
        """Add a line to the story. Callers ask for `world.story` first: most runs have none, and words cost time."""
        assert self.story is not None
        self.story.add(self.now, who, text, job_id, node_id)
