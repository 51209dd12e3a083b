"""The engine room: one task takes events in, commits what they decide in one transaction, and only then sends.

Everything that waits is taken in together and shares a commit, so throughput does not hang on the disk's latency. A
transaction that fails is tried again until it succeeds: nothing is sent, acknowledged or decided anew in between, so
the decisions never run ahead of the store. Submissions are stored in a transaction of their own, which may fail alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from hub import exceptions, wire
from hub.core import events, instructions
from hub.core.dispatch import Dispatch, Outlook, Rules
from hub.core.jobs import Job, State
from hub.core.nodes import Node
from hub.server import metrics
from hub.server.sessions import Outgoing, Sessions
from hub.server.watchers import Watchers
from hub.store import commits, records
from hub.store.bulletin import Bulletin
from hub.store.commits import Outcome
from hub.store.database import snapshot
from hub.store.records import JobRecord, NewJob
from sonic.v1 import artifacts_pb2, fleet_service_pb2, jobs_pb2

TICK_S = 0.5
MAX_BATCH = 500
MAX_NAMED = 2000  # jobs in one query
T = TypeVar("T")
_log = logging.getLogger("hub.dispatcher")
Link = Callable[[str, str], str]
"""Where an artifact of a tenant can be fetched directly, by its hash; empty where it cannot."""
_ENDS: dict[type, State] = {
    instructions.CommitSuccess: State.SUCCEEDED,
    instructions.CommitFailure: State.FAILED,
    instructions.CommitCancel: State.CANCELLED,
}


@dataclass
class _Posted:
    event: events.Event
    done: asyncio.Future[None] | None = None


@dataclass
class _Submission:
    jobs: Sequence[NewJob]
    done: asyncio.Future[list[tuple[JobRecord, bool]]]


@dataclass(frozen=True)
class _Committed:
    write: instructions.Write
    outcome: Outcome
    assignment: fleet_service_pb2.Assignment | None = None


class Dispatcher:
    """Owns the decisions and the only connection that writes jobs."""

    def __init__(
        self,
        database: sa.Engine,
        rules: Rules,
        sessions: Sessions,
        watchers: Watchers,
        bulletin: Bulletin,
        link: Link,
    ) -> None:
        self._database = database
        self._link = link
        self._bulletin = bulletin
        self._dispatch = Dispatch(rules)
        self._sessions = sessions
        self._watchers = watchers
        self._inbox: deque[_Posted | _Submission] = deque()
        self._doubtful: set[str] = set()  # jobs that others may have changed
        self._reads: list[Callable[[sa.Connection], events.Event]] = []
        self._wakeup = asyncio.Event()
        self._stopping = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._next_tick_s = 0.0
        self._tenants: dict[str, str] = {}  # of jobs that have not ended
        self.stalled = ""  # why the store does not take writes; empty when it does

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes as the decisions see them; not to be changed."""
        return self._dispatch.nodes

    def jobs_by_state(self) -> Counter[tuple[str, State]]:
        """How many jobs of each tenant are in each state; those that have ended are in none."""
        return Counter((job.tenant, job.state) for job in self._dispatch.jobs.values())

    def outlook(self, job_id: str) -> Outlook:
        return self._dispatch.outlook(job_id, time.monotonic())

    def queued(self, tenant: str) -> int:
        return self._dispatch.queue.waiting(tenant)

    def standings(self) -> dict[str, tuple[State, int, int]]:
        """State, attempt and tries of every job that has not ended, as the decisions see it. Any thread may ask."""
        return {job_id: (job.state, job.attempt, job.tries) for job_id, job in self._dispatch.jobs.copy().items()}

    def look_again(self, job_ids: Iterable[str]) -> None:
        """Somebody else may have changed these: read them before any event that is posted from now on."""
        self._doubtful.update(job_ids)
        self._wakeup.set()

    def read(self, look: Callable[[sa.Connection], events.Event]) -> None:
        """Let an event that tells what is stored be dealt with before any that is posted from now on.

        It is read when its turn has come, and so is never behind an event that was dealt with before.
        """
        self._reads.append(look)
        self._wakeup.set()

    def post(self, event: events.Event) -> None:
        """Let an event be dealt with soon."""
        self._put(_Posted(event))

    async def settle(self, event: events.Event) -> None:
        """Let an event be dealt with, and wait until what follows from it is committed."""
        done = asyncio.get_running_loop().create_future()
        self._put(_Posted(event, done))
        await done

    async def submit(self, jobs: Sequence[NewJob]) -> list[tuple[JobRecord, bool]]:
        """Store jobs, all or none, and let them be placed. Returns each job and whether it is new. Raises NotNow."""
        done: asyncio.Future[list[tuple[JobRecord, bool]]] = asyncio.get_running_loop().create_future()
        self._put(_Submission(jobs, done))
        return await done

    async def load(self) -> None:
        """Take over what the store holds; before `run`."""

        def read() -> events.Loaded:
            with self._database.connect() as connection:
                snapshot(connection)
                return events.Loaded(tuple(records.live_jobs(connection)), tuple(records.known_nodes(connection)))

        loaded = await self._in_writer(read)
        self._dispatch.handle(loaded, time.monotonic())
        self._tenants = {job.job_id: job.tenant for job in loaded.jobs}
        _log.info("loaded", extra={"live_jobs": len(loaded.jobs), "known_nodes": len(loaded.nodes)})

    async def run(self) -> None:
        """Work until `stop`; what has come in by then is dealt with first."""
        while not self._stopping or self._inbox:
            await self._work(await self._take())
        self._writer.shutdown()

    def stop(self) -> None:
        self._stopping = True
        self._wakeup.set()

    def _put(self, item: _Posted | _Submission) -> None:
        self._inbox.append(item)
        self._wakeup.set()

    async def _take(self) -> list[_Posted | _Submission]:
        if not self._inbox and not self._doubtful and not self._reads:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._next_tick_s - time.monotonic(), 0)):
                    await self._wakeup.wait()
        self._wakeup.clear()
        return [self._inbox.popleft() for _ in range(min(len(self._inbox), MAX_BATCH))]

    async def _work(self, items: list[_Posted | _Submission]) -> None:
        now = time.monotonic()
        happened: list[events.Event] = await self._store_submissions(
            [item for item in items if isinstance(item, _Submission)]
        )
        happened += await self._look()
        posted = [item for item in items if isinstance(item, _Posted)]
        happened += [item.event for item in posted]
        if now >= self._next_tick_s:
            self._next_tick_s = now + TICK_S
            happened.append(events.Ticked())
        await self._decide(happened, now)
        for item in posted:
            if item.done and not item.done.done():
                item.done.set_result(None)

    async def _decide(self, happened: Iterable[events.Event], now: float) -> None:
        wanted: list[instructions.Instruction] = []
        changed: set[str] = set()
        for event in happened:
            wanted += self._dispatch.handle(event, now)
            if isinstance(event, events.AttemptProgressed):
                changed.add(event.ref.job_id)
            elif isinstance(event, events.Diverged):
                changed.add(event.job_id)
        wanted += self._dispatch.assign(now)
        writes = [item for item in wanted if isinstance(item, instructions.Write)]
        committed = iter(await self._commit(writes) if writes else [])
        for instruction in wanted:  # in this order: an agent must hear that it is resumed before it is given work
            if isinstance(instruction, instructions.Send):
                self._send(instruction)
            else:
                changed.add(_job_id(instruction))
                self._follow_up(next(committed), now)
        self._watchers.wake(changed)

    async def _store_submissions(self, submissions: list[_Submission]) -> list[events.Event]:
        if not submissions:
            return []

        def write() -> list[list[tuple[JobRecord, bool]]]:
            now_s = time.time()
            with self._database.begin() as connection:
                stored = [[records.add_job(connection, job, now_s) for job in item.jobs] for item in submissions]
                new = [record.row.job_id for answer in stored for record, created in answer if created]
                self._bulletin.tell(connection, jobs=new)
                return stored

        try:
            stored = await self._in_writer(write)
        except sa.exc.SQLAlchemyError as error:
            metrics.STORE_FAILURES.inc()
            _log.error("submissions could not be stored", extra={"error": str(error.__cause__ or error)})
            for item in submissions:
                refusal = exceptions.NotNow("the hub's store cannot take jobs at the moment", retry_after_s=5.0)
                item.done.set_exception(refusal)
            return []
        new: list[events.Event] = []
        for item, answer in zip(submissions, stored, strict=True):
            fresh = [record for record, created in answer if created]
            for record in fresh:
                self._tenants[record.row.job_id] = record.row.tenant
                metrics.JOBS_SUBMITTED.labels(record.row.tenant).inc()
            new += [events.JobStored(record.live()) for record in fresh]
            if not item.done.done():
                item.done.set_result(answer)
        return new

    async def _commit(self, writes: list[instructions.Write]) -> list[_Committed]:
        """One transaction for all; tried again until the store takes it."""

        def write() -> list[_Committed]:
            now_s = time.time()
            with metrics.COMMIT_SECONDS.time(), self._database.begin() as connection:
                done = {index: _carry_out(connection, writes[index], now_s, self._link) for index in in_order}
                self._bulletin.tell(
                    connection, jobs=[_job_id(one.write) for one in done.values() if one.outcome.applied]
                )
                return [done[index] for index in range(len(writes))]

        # Hubs that change the same jobs take them in one order, so that none waits for another that waits for it.
        in_order = sorted(range(len(writes)), key=lambda index: _job_id(writes[index]))
        return await self._until_done(write)

    async def _look(self) -> list[events.Event]:
        """What the store holds of the doubtful jobs, and what else is to be read."""
        if not self._doubtful and not self._reads:
            return []
        asked, self._doubtful = list(self._doubtful), set()
        looks, self._reads = self._reads, []

        def read() -> tuple[dict[str, Job], list[events.Event]]:
            with self._database.connect() as connection:
                snapshot(connection)
                parts = [asked[at : at + MAX_NAMED] for at in range(0, len(asked), MAX_NAMED)]
                jobs = {job.job_id: job for part in parts for job in records.live_jobs(connection, part)}
                return jobs, [look(connection) for look in looks]

        found, others = await self._until_done(read)
        for job_id in asked:
            if job_id in found:
                self._tenants[job_id] = found[job_id].tenant
            else:
                self._tenants.pop(job_id, None)
        return [*others, *(events.Diverged(job_id, found.get(job_id)) for job_id in asked)]

    async def _until_done(self, work: Callable[[], T]) -> T:
        pause_s = 0.1
        while True:
            try:
                done = await self._in_writer(work)
                self.stalled = ""
                return done
            except sa.exc.SQLAlchemyError as error:
                self.stalled = str(error.__cause__ or error)
                metrics.STORE_FAILURES.inc()
                _log.error("the store refused a transaction", extra={"error": self.stalled, "retry_s": pause_s})
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)

    def _follow_up(self, item: _Committed, now: float) -> None:
        write, outcome = item.write, item.outcome
        if isinstance(write, instructions.CommitSuccess):
            ack = instructions.Acknowledge(write.node_id, write.ref, outcome.verdict)
            self._send(ack)
        if not outcome.applied:
            _log.info("somebody else was first", extra={"write": type(write).__name__, "job_id": _job_id(write)})
            if isinstance(write, instructions.Assign):
                self._dispatch.handle(events.ClaimLost(write.ref), now)
            self.look_again([_job_id(write)])
        elif isinstance(write, instructions.Assign):
            assert item.assignment
            metrics.PLACEMENTS.labels(write.region, "retry" if write.ref.attempt > 1 else "first").inc()
            if write.ref.attempt == 1:
                metrics.QUEUE_WAIT.labels(item.assignment.tenant).observe(item.assignment.queued_seconds)
            self._sessions.send(write.node_id, Outgoing(assignment=item.assignment))
            extra = {"job_id": write.ref.job_id, "attempt": write.ref.attempt, "node_id": write.node_id}
            _log.info("assigned", extra=extra | {"reason": write.reason})
        elif isinstance(write, instructions.Requeue):
            metrics.REQUEUES.labels(write.failure.reason).inc()
            extra = {"job_id": write.ref.job_id, "attempt": write.ref.attempt, "reason": write.failure.message}
            _log.warning("requeued", extra=extra)
        elif state := _ENDS.get(type(write)):
            metrics.JOBS_ENDED.labels(self._tenants.pop(_job_id(write), ""), state).inc()
            _log.info("ended", extra={"job_id": _job_id(write), "state": str(state)})

    def _send(self, item: instructions.Send) -> None:
        match item:
            case instructions.Acknowledge(node_id, ref, verdict):
                value = fleet_service_pb2.ResultVerdict.ValueType(verdict)
                ack = fleet_service_pb2.ResultAck(ref=wire.ref_message(ref), verdict=value)
                self._sessions.send(node_id, Outgoing(result_ack=ack))
            case instructions.StopAttempt(node_id, ref, reason):
                stop = fleet_service_pb2.CancelAttempt(ref=wire.ref_message(ref), reason=reason)
                self._sessions.send(node_id, Outgoing(cancel=stop))
            case instructions.TellDrain(node_id, True):
                self._sessions.send(node_id, Outgoing(drain=fleet_service_pb2.Drain()))
            case instructions.TellDrain(node_id, False):
                self._sessions.send(node_id, Outgoing(resume=fleet_service_pb2.Resume()))

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


def _job_id(write: instructions.Write) -> str:
    return write.job_id if isinstance(write, instructions.CommitCancel) else write.ref.job_id


def _carry_out(connection: sa.Connection, write: instructions.Write, now_s: float, link: Link) -> _Committed:
    outcome = commits.apply(connection, write, now_s)
    if isinstance(write, instructions.Assign) and outcome.applied:
        return _Committed(write, outcome, _assignment(connection, write, link))
    return _Committed(write, outcome)


def _assignment(connection: sa.Connection, write: instructions.Assign, link: Link) -> fleet_service_pb2.Assignment:
    row = records.attempt(connection, write.ref.job_id, write.ref.attempt, write.node_id)
    assert row is not None
    spec = jobs_pb2.JobSpec.FromString(row.spec)
    inputs = records.artifacts_of(connection, row.tenant, (spec.portrait_sha256, spec.voice_sha256))

    def artifact(sha256: str) -> artifacts_pb2.Artifact:
        held = inputs[sha256]
        return artifacts_pb2.Artifact(sha256=sha256, size_bytes=held.size_bytes, media_type=held.media_type)

    return fleet_service_pb2.Assignment(
        ref=wire.ref_message(write.ref),
        tenant=row.tenant,
        spec=spec,
        portrait=artifact(spec.portrait_sha256),
        voice=artifact(spec.voice_sha256),
        portrait_url=link(row.tenant, spec.portrait_sha256),
        voice_url=link(row.tenant, spec.voice_sha256),
        slot=write.slot,
        queued_seconds=max(row.assigned_at_s - row.submitted_at_s, 0.0),
    )
