"""One call of RunJobs: jobs come in as they are wanted, and news of them goes out, as much at a time as there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from hub import exceptions
from hub.core.tenants import Rate
from hub.server import submissions
from hub.server.guard import status_of
from hub.server.sessions import MESSAGES_PER_S, MOST_AT_ONCE
from hub.server.watchers import Ends, Watchers
from hub.store.records import JobRecord
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import jobs_pb2

MOST_LIVE = 10_000  # jobs of one call
MOST_TOLD = 200  # ends in one message, which has to stay below what callers take
_ROOM_S = 0.05


class Run:
    """The jobs of one call."""

    def __init__(
        self,
        take_in: Callable[[Sequence[pb.SubmitJobRequest]], Awaitable[list[JobRecord | exceptions.Refusal]]],
        ended: Callable[[Collection[str]], Awaitable[list[jobs_pb2.Job]]],
        is_live: Callable[[str], bool],
        watchers: Watchers,
    ) -> None:
        """`ended` answers those of the named jobs that have ended, `is_live` whether a job is known not to have."""
        self._take_in = take_in
        self._ended = ended
        self._is_live = is_live
        self._watchers = watchers
        self._answers = pb.RunJobsResponse()
        self._wanted: list[pb.SubmitJobRequest] = []  # and not stored yet
        self._came = asyncio.Event()

    @property
    def _untold(self) -> int:
        return len(self._answers.accepted) + len(self._answers.refused)

    async def answers(self, requests: AsyncIterator[pb.RunJobsRequest]) -> AsyncIterator[pb.RunJobsResponse]:
        """What is to be told, until the caller has said all and every job has ended. Raises InvalidRequest, NotNow."""
        with self._watchers.ends() as ends:
            storing = asyncio.create_task(self._store(requests, ends), name="run of jobs")
            storing.add_done_callback(lambda _: ends.news.set())
            try:
                looked_s = time.monotonic()
                while not storing.done() or ends.jobs or self._untold:
                    await self._watchers.news(ends.news)
                    if time.monotonic() - looked_s >= self._watchers.look_again_s:  # however much else is told
                        looked_s = time.monotonic()
                        ends.tell([job_id for job_id in ends.jobs if not self._is_live(job_id)])
                    if storing.done():
                        storing.result()
                    answers, self._answers = self._answers, pb.RunJobsResponse()
                    answers.ended.extend(await self._ends(ends))
                    if answers.ByteSize():
                        yield answers
            finally:
                storing.cancel()
                await asyncio.wait([storing])

    async def _ends(self, ends: Ends) -> list[jobs_pb2.Job]:
        asked = ends.take(MOST_TOLD)
        found = await self._ended(asked) if asked else []
        for job in found:
            ends.remove(job.job_id)
        return found

    async def _store(self, requests: AsyncIterator[pb.RunJobsRequest], ends: Ends) -> None:
        """What comes in while some is stored is stored together after it: else every message would cost a commit."""
        listener = asyncio.create_task(self._listen(requests, ends), name="what a run of jobs wants")
        listener.add_done_callback(lambda _: self._came.set())
        try:
            while not listener.done() or self._wanted:
                await self._came.wait()
                self._came.clear()
                if listener.done():
                    listener.result()
                while self._wanted:
                    items, self._wanted = self._wanted, []
                    await self._store_some(items, ends)
            listener.result()
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _store_some(self, items: Sequence[pb.SubmitJobRequest], ends: Ends) -> None:
        try:
            outcomes = await self._take_in(items)
        except exceptions.LimitReached as refusal:  # of all of them
            outcomes = [refusal] * len(items)
        self._note([item.idempotency_key for item in items], outcomes, ends)

    async def _listen(self, requests: AsyncIterator[pb.RunJobsRequest], ends: Ends) -> None:
        pace = Rate(MESSAGES_PER_S * 60, MOST_AT_ONCE, time.monotonic(), MOST_AT_ONCE)
        async for request in requests:
            submissions.check_count(request.items)
            while len(self._wanted) + len(request.items) > submissions.MAX_BATCH_ITEMS:  # noqa: ASYNC110
                await asyncio.sleep(_ROOM_S)
            self._wanted += request.items
            self._came.set()
            while wait_s := pace.take(1, time.monotonic()):  # noqa: ASYNC110 - it is known how long
                await asyncio.sleep(wait_s)
            while len(ends.jobs) + self._untold >= MOST_LIVE:  # noqa: ASYNC110 - some of them end
                await asyncio.sleep(_ROOM_S)

    def _note(self, keys: Sequence[str], outcomes: Sequence[JobRecord | exceptions.Refusal], ends: Ends) -> None:
        over = []
        for key, outcome in zip(keys, outcomes, strict=True):
            if isinstance(outcome, exceptions.Refusal):
                again_s = outcome.retry_after_s or 0.0
                self._answers.refused.add(idempotency_key=key, error=submit_error(outcome), retry_after_seconds=again_s)
                continue
            job_id = outcome.row.job_id
            self._answers.accepted.add(idempotency_key=key, job_id=job_id)
            ends.add(job_id)
            if not self._is_live(job_id):
                over.append(job_id)
        ends.tell(over)


def submit_error(refusal: exceptions.Refusal) -> pb.SubmitError:
    """Why a job was not stored, for its caller."""
    problems = refusal.problems if isinstance(refusal, exceptions.InvalidRequest) else ()
    return pb.SubmitError(
        code=status_of(refusal).code,
        message=refusal.message,
        reason=refusal.reason,
        problems=[jobs_pb2.FieldProblem(field=p.field, description=p.description) for p in problems],
    )
