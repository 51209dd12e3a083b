"""Callers that follow a job are woken when it changes, and those that run many when some of them have ended.

All of them are when the hub stops: they are to ask another one, or this one's next life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from hub import exceptions

_LOOK_AGAIN_S = 1.0
_LOOKS_PER_S = 100


class Ends:
    """Jobs of which one caller wants to hear when they have ended."""

    def __init__(self, known: dict[str, set[Ends]]) -> None:
        self._known = known
        self._told: dict[str, None] = {}
        self.jobs: set[str] = set()
        self.news = asyncio.Event()  # its holder clears it

    def add(self, job_id: str) -> None:
        self.jobs.add(job_id)
        self._known.setdefault(job_id, set()).add(self)

    def remove(self, job_id: str) -> None:
        self.jobs.discard(job_id)
        self._known[job_id].discard(self)
        if not self._known[job_id]:
            del self._known[job_id]

    def tell(self, job_ids: Iterable[str]) -> None:
        """These may have ended."""
        self._told.update(dict.fromkeys(job_ids))
        self.news.set()

    def take(self, at_most: int) -> list[str]:
        """Jobs that may have ended; what is beyond `at_most` is news again."""
        taken = list(islice(self._told, at_most))
        for job_id in taken:
            del self._told[job_id]
        if self._told:
            self.news.set()
        return [job_id for job_id in taken if job_id in self.jobs]


class Watchers:
    """Wake-up calls by job."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}
        self._ends: dict[str, set[Ends]] = {}
        self._count = 0
        self._waiting: set[asyncio.Event] = set()
        self._stopping = False

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

    @contextmanager
    def ends(self) -> Iterator[Ends]:
        """Of jobs that its holder adds."""
        ends = Ends(self._ends)
        try:
            yield ends
        finally:
            for job_id in list(ends.jobs):
                ends.remove(job_id)

    async def news(self, event: asyncio.Event) -> None:
        """Until an event is set, which is cleared, or it is time to look anyway. Raises NotNow when the hub stops."""
        self._look_whether_stopping()
        self._waiting.add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.look_again_s):
                    await event.wait()
        finally:
            self._waiting.discard(event)
        self._look_whether_stopping()
        event.clear()

    def _look_whether_stopping(self) -> None:
        if self._stopping:
            raise exceptions.NotNow("the hub is stopping; ask again")

    def stop(self) -> None:
        """Wake all, for good."""
        self._stopping = True
        for event in self._waiting:
            event.set()

    def ended(self, job_ids: Iterable[str]) -> None:
        """Wake all that wait for these."""
        self.wake(job_ids)
        told: dict[Ends, list[str]] = {}
        for job_id in job_ids:
            for ends in self._ends.get(job_id, ()):
                told.setdefault(ends, []).append(job_id)
        for ends, theirs in told.items():
            ends.tell(theirs)

    def wake(self, job_ids: Iterable[str], within_s: float = 0.0) -> None:
        """Now, or a little later with whatever comes until then: what changes again at once is not told twice."""
        watched = [job_id for job_id in job_ids if job_id in self._events]
        if watched and within_s:
            asyncio.get_running_loop().call_later(within_s, self.wake, watched)
            return
        for job_id in watched:
            for event in self._events[job_id]:
                event.set()
