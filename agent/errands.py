"""Work in the background, one named task per errand and attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from agent.core.attempts import Ref


class Errands:
    """Tasks that somebody watches: the group ends everything when one fails with an error nobody expected."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, errand: str, of: Ref | str, work: Coroutine[Any, Any, None]) -> None:
        name = f"{errand} {of}"
        task = self._group.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._forget(name, done))

    def cancel(self, errand: str, of: Ref | str) -> None:
        """Stop an errand, if it is under way."""
        if task := self._tasks.get(f"{errand} {of}"):
            task.cancel()

    async def over(self, errand: str, of: Ref | str) -> None:
        """Wait until an errand that was begun is not under way any more."""
        if task := self._tasks.get(f"{errand} {of}"):
            await asyncio.wait([task])

    def cancel_all(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    def _forget(self, name: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is done:
            del self._tasks[name]
