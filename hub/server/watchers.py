"""Callers that follow a job are woken when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LOOK_AGAIN_S = 1.0
_LOOKS_PER_S = 100


class Watchers:
    """Wake-up calls by job."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}
        self._count = 0

    @property
    def look_again_s(self) -> float:
        """How long to wait for a change before looking anyway, since places in the queue drift without one.

        The more callers follow jobs, the longer: looking for all of them must not take the time that work needs.
        """
        return max(_LOOK_AGAIN_S, self._count / _LOOKS_PER_S)

    @contextmanager
    def on(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job changes; its holder clears it."""
        event = asyncio.Event()
        self._events.setdefault(job_id, set()).add(event)
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            self._events[job_id].discard(event)
            if not self._events[job_id]:
                del self._events[job_id]

    def wake(self, job_ids: Iterable[str], within_s: float = 0.0) -> None:
        """Now, or a little later with whatever comes until then: what changes again at once is not told twice."""
        watched = [job_id for job_id in job_ids if job_id in self._events]
        if watched and within_s:
            asyncio.get_running_loop().call_later(within_s, self.wake, watched)
            return
        for job_id in watched:
            for event in self._events[job_id]:
                event.set()
