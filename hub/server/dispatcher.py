"""The engine room: one task takes events in, commits what they decide in one transaction, and only then sends.

Everything that waits is taken in together and shares a commit, so throughput does not hang on the disk's latency. A
transaction that fails is tried again until it succeeds: nothing is sent, acknowledged or decided anew in between, so
the decisions never run ahead of the store. Submissions share the commit; when it fails they are refused at once. A
write that holds what no try could store is dropped, and its job is read anew, as if somebody else had been first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from hub import exceptions, wire
from hub.core import events, instructions
from hub.core.admission import Admitted, Refused
from hub.core.decisions import Decision
from hub.core.decisions import Kind as DecisionKind
from hub.core.dispatch import Dispatch, Rules
from hub.core.forecast import Forecasts
from hub.core.health import Health
from hub.core.jobs import Job, Ref, State
from hub.core.nodes import Node
from hub.core.prospects import Outlook
from hub.core.tenants import Limits, Tenant
from hub.server import metrics
from hub.server.sessions import Outgoing, Sessions
from hub.server.watchers import Watchers
from hub.store import forecasts, records
from hub.store.artifacts import KnownArtifacts
from hub.store.bulletin import Bulletin
from hub.store.commits import Outcome
from hub.store.database import snapshot
from hub.store.ledger import Committed, Given, Ledger, Stored, Taken, is_passing
from hub.store.quotas import Full, Submission
from hub.store.records import NewJob
from sonic.v1 import artifacts_pb2, fleet_service_pb2

TICK_S = 0.5
TELL_WITHIN_S = 0.02  # a change of a job that has not ended
STANDSTILL_S = 1.0  # a tick that is later than this tells that the hub itself stood still
DROPPED_PAUSE_S = 0.1  # what was dropped may be decided again at once
MAX_BATCH = 500
GATHERING_TURNS = 4  # of the loop: so many a message takes from its socket to the inbox
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
    wanted: Submission
    done: asyncio.Future[Taken]


class Dispatcher:
    """Owns the decisions and the only connection that writes jobs."""

    def __init__(
        self,
        database: sa.Engine,
        known: KnownArtifacts,
        rules: Rules,
        sessions: Sessions,
        watchers: Watchers,
        bulletin: Bulletin,
        link: Link,
        hub_id: str,
        ended: Callable[[str], None] = lambda _job_id: None,
    ) -> None:
        """`ended` is told of every job that this hub has ended."""
        self._database = database
        self._link = link
        self._ended = ended
        self._ledger = Ledger(database, known, bulletin, hub_id)
        self._dispatch = Dispatch(rules)
        self._sessions = sessions
        self._watchers = watchers
        self._inbox: deque[_Posted | _Submission] = deque()
        self._submitted: list[_Submission] = []  # taken from the inbox, and not stored yet
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

    @property
    def forecasts(self) -> Forecasts:
        """What the decisions have learned; for keeping it."""
        return self._dispatch.forecasts

    def jobs_by_state(self) -> Counter[tuple[str, State]]:
        """How many jobs of each tenant are in each state; those that have ended are in none."""
        return Counter((job.tenant, job.state) for job in self._dispatch.jobs.values())

    def outlooks(self, job_ids: Iterable[str]) -> list[Outlook]:
        return self._dispatch.outlooks(job_ids, time.monotonic())

    def explain(self, job_id: str) -> Decision | None:
        """Why a job waits; None when it does not."""
        return self._dispatch.explain(job_id, time.monotonic())

    def health(self, node_id: str) -> Health | None:
        """The health of a node that is connected here."""
        return self._dispatch.standing.health(node_id, time.monotonic())

    def is_live(self, job_id: str) -> bool:
        """Whether the decisions know the job, which so has not ended."""
        return job_id in self._dispatch.jobs

    def queued(self, tenant: str) -> int:
        return self._dispatch.queue.waiting(tenant)

    def tenant_of(self, ref: Ref, node_id: str) -> Tenant | None:
        """Whose job it is, if this is its newest attempt and that node's; else None."""
        job = self._dispatch.jobs.get(ref.job_id)
        return Tenant(job.tenant) if job and job.ref == ref and job.node_id == node_id else None

    def started(self, tenant: str) -> int:
        """How many of the tenant's jobs have left the queue for a node since the hub's start."""
        return self._dispatch.queue.started(tenant)

    def limit(self, limits: Limits) -> None:
        """Weigh and bound tenants as an operator wishes, from now on."""
        self._dispatch.limit(limits)

    def admit(self, new: NewJob) -> Refused | Admitted:
        """Judge a job that is not stored yet."""
        return self._dispatch.admit(new.live(_clock_offset_s()), time.monotonic())

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

    async def submit(self, wanted: Submission) -> Taken:
        """Store jobs, all or none, and let them be placed. Returns each job and whether it is new. Raises NotNow."""
        done: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._put(_Submission(wanted, done))
        return await done

    async def load(self) -> None:
        """Take over what the store holds; before `run`."""

        def read() -> events.Loaded:
            with self._database.connect() as connection:
                snapshot(connection)
                live = records.live_jobs(connection, _clock_offset_s())
                return events.Loaded(tuple(live), tuple(records.known_nodes(connection)), forecasts.load(connection))

        loaded = await self._in_writer(read)
        self._dispatch.handle(loaded, time.monotonic())
        self._tenants = {job.job_id: job.tenant for job in loaded.jobs}
        counts = {"live_jobs": len(loaded.jobs), "known_nodes": len(loaded.nodes), "lessons": len(loaded.lessons)}
        _log.info("loaded", extra=counts)

    async def run(self) -> None:
        """Work until `stop`; what has come in by then is dealt with first."""
        while not self._stopping or self._inbox:
            await self._work(await self._take())
        self._writer.shutdown()
        self._ledger.close()

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
        for _ in range(GATHERING_TURNS):  # what has come in together is dealt with together
            await asyncio.sleep(0)
        self._wakeup.clear()
        return [self._inbox.popleft() for _ in range(min(len(self._inbox), MAX_BATCH))]

    async def _work(self, items: list[_Posted | _Submission]) -> None:
        now = time.monotonic()
        self._submitted = [item for item in items if isinstance(item, _Submission)]
        posted = [item for item in items if isinstance(item, _Posted)]
        happened = await self._look()
        if self._next_tick_s and now - self._next_tick_s > STANDSTILL_S:
            _log.warning("stood still", extra={"seconds": now - self._next_tick_s})
            happened.append(events.StoodStill(now - self._next_tick_s))
        happened += [item.event for item in posted]
        if now >= self._next_tick_s:
            self._next_tick_s = now + TICK_S
            happened.append(events.Ticked())
        wanted = self._dispatch.handle_all(happened, now)
        changed = {event.ref.job_id for event in happened if isinstance(event, events.AttemptProgressed)}
        changed |= {event.job_id for event in happened if isinstance(event, events.Diverged)}
        if self._submitted:  # what is stored with them may be assigned at once
            new = await self._carry_out(wanted, changed, now)
            wanted = self._dispatch.handle_all(new, now)
        wanted += self._assign(now)
        await self._carry_out(wanted, changed, now)
        ended = {job_id for job_id in changed if job_id not in self._dispatch.jobs}
        self._watchers.ended(ended)
        self._watchers.wake(changed - ended, within_s=TELL_WITHIN_S)
        for item in posted:
            if item.done and not item.done.done():
                item.done.set_result(None)

    def _assign(self, now: float) -> list[instructions.Instruction]:
        began_s = time.perf_counter()
        assigned = self._dispatch.assign(now)
        if assigned:
            metrics.PLACEMENT_SECONDS.observe((time.perf_counter() - began_s) / len(assigned))
        return assigned

    async def _carry_out(
        self, wanted: list[instructions.Instruction], changed: set[str], now: float
    ) -> list[events.Event]:
        """Commit, then send, in this order: an agent must hear that it is resumed before it is given work."""
        writes = [item for item in wanted if isinstance(item, instructions.Write)]
        outcomes, new = await self._commit(writes)
        committed = iter(outcomes)
        for instruction in wanted:
            if isinstance(instruction, instructions.Send):
                self._send(instruction)
            elif isinstance(instruction, instructions.Record):
                next(committed)
                self._tell(instruction.decision)
            else:
                changed.add(_job_id(instruction))
                self._follow_up(next(committed), now)
        return new

    def _admit(self, taken: list[Taken]) -> list[events.Event]:
        submitted, self._submitted = self._submitted, []
        new: list[events.Event] = []
        for item, answer in zip(submitted, taken, strict=True):
            if not isinstance(answer, Full):
                new += self._new(answer, item.wanted.jobs)
            if not item.done.done():
                item.done.set_result(answer)
        return new

    def _new(self, answer: Stored, jobs: Sequence[NewJob]) -> list[events.Event]:
        fresh = [(record, job) for (record, created), job in zip(answer, jobs, strict=True) if created]
        for record, _ in fresh:
            self._tenants[record.row.job_id] = record.row.tenant
            metrics.JOBS_SUBMITTED.labels(record.row.tenant).inc()
        return [events.JobStored(record.live(_clock_offset_s(), job.sizes)) for record, job in fresh]

    async def _commit(self, writes: list[instructions.Write]) -> tuple[list[Committed], list[events.Event]]:
        """One transaction for all, the submissions included."""

        async def attempt() -> tuple[list[Committed], list[Taken]]:
            if not writes and not self._submitted:
                return [], []
            try:
                return await self._write(writes, [item.wanted for item in self._submitted])
            except sa.exc.DataError as error:
                return await self._commit_apart(writes, error), []

        committed, taken = await self._until_done(attempt)
        return committed, self._admit(taken)

    async def _commit_apart(self, writes: list[instructions.Write], error: sa.exc.DataError) -> list[Committed]:
        """Commit each by itself, so that the one that can never be stored keeps none of the others waiting."""
        alone = len(writes) == 1 and not self._submitted
        self._refuse_submissions()
        if not alone:
            return [one for write in writes for one in (await self._commit([write]))[0]]
        (write,) = writes
        metrics.STORE_FAILURES.inc()
        about = {} if isinstance(write, instructions.Record) else {"job_id": _job_id(write)}
        extra = {"write": type(write).__name__, "error": str(error.__cause__ or error), **about}
        _log.error("dropped what cannot be stored", extra=extra)
        await asyncio.sleep(DROPPED_PAUSE_S)
        return [Committed(write, Outcome(applied=False))]

    async def _write(
        self, writes: list[instructions.Write], new: list[Submission]
    ) -> tuple[list[Committed], list[Taken]]:
        with metrics.COMMIT_SECONDS.time():
            durable = bool(new) or not all(map(is_passing, writes))
            draft = self._ledger.draft(writes, new, time.time(), durable) if self._ledger.quick else None
            if draft is None:
                draft = await self._in_writer(lambda: self._ledger.write(writes, new, time.time()))
            elif durable:
                await self._in_writer(draft.commit)
            else:
                draft.commit()
            return draft.committed, draft.taken

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
                live = (job for part in parts for job in records.live_jobs(connection, _clock_offset_s(), part))
                return {job.job_id: job for job in live}, [look(connection) for look in looks]

        found, others = await self._until_done(lambda: self._in_writer(read))
        for job_id in asked:
            if job_id in found:
                self._tenants[job_id] = found[job_id].tenant
            else:
                self._tenants.pop(job_id, None)
        return [*others, *(events.Diverged(job_id, found.get(job_id)) for job_id in asked)]

    async def _until_done(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again until the store takes it; submissions that wait meanwhile are refused, for they need not wait."""
        pause_s = 0.1
        while True:
            try:
                done = await attempt()
                self.stalled = ""
                return done
            except sa.exc.SQLAlchemyError as error:
                self.stalled = str(error.__cause__ or error)
                metrics.STORE_FAILURES.inc()
                _log.error("the store refused a transaction", extra={"error": self.stalled, "retry_s": pause_s})
                self._refuse_submissions()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)

    def _refuse_submissions(self) -> None:
        waiting = [item for item in self._inbox if isinstance(item, _Submission)]
        for item in (*self._submitted, *waiting):
            if not item.done.done():  # a caller may have gone meanwhile
                refusal = exceptions.NotNow("the hub's store cannot take jobs at the moment", retry_after_s=5.0)
                item.done.set_exception(refusal)
        self._submitted = []
        self._inbox = deque(item for item in self._inbox if isinstance(item, _Posted))

    def _follow_up(self, item: Committed, now: float) -> None:
        write, outcome = item.write, item.outcome
        if isinstance(write, instructions.CommitSuccess):
            ack = instructions.Acknowledge(write.node_id, write.ref, outcome.verdict)
            self._send(ack)
        if not outcome.applied:
            _log.info("somebody else was first", extra={"write": type(write).__name__, "job_id": _job_id(write)})
            if isinstance(write, instructions.Assign):
                self._dispatch.handle(events.ClaimLost(write.ref), now)
            self.look_again([_job_id(write), *outcome.in_the_way])
        elif isinstance(write, instructions.Assign):
            assert item.given
            metrics.PLACEMENTS.labels(write.region, "retry" if write.ref.attempt > 1 else "first").inc()
            if write.ref.attempt == 1:
                metrics.QUEUE_WAIT.labels(item.given.tenant).observe(item.given.queued_s)
            self._sessions.send(write.node_id, Outgoing(assignment=_assignment(write, item.given, self._link)))
            extra = {"job_id": write.ref.job_id, "attempt": write.ref.attempt, "node_id": write.node_id}
            if item.given.checkpoint:
                extra["goes_on_from"] = f"{item.given.checkpoint.done}/{item.given.checkpoint.total}"
            _log.info("assigned", extra=extra | {"reason": write.reason})
        elif isinstance(write, instructions.Requeue):
            metrics.REQUEUES.labels(metrics.reason_label(write.failure)).inc()
            extra = {"job_id": write.ref.job_id, "attempt": write.ref.attempt, "reason": write.failure.message}
            _log.warning("requeued", extra=extra)
        elif state := _ENDS.get(type(write)):
            self._ended(_job_id(write))
            metrics.JOBS_ENDED.labels(self._tenants.pop(_job_id(write), ""), state).inc()
            _log.info("ended", extra={"job_id": _job_id(write), "state": str(state)})

    def _tell(self, decision: Decision) -> None:
        kind = decision.kind.name.lower()
        node = self.nodes.get(decision.node_id)
        metrics.DECISIONS.labels(node.region if node else "", kind).inc()
        if decision.kind is DecisionKind.FROZEN:
            metrics.FREEZES.inc()
        _log.warning(kind, extra={"node_id": decision.node_id, "reason": decision.reason})

    def _send(self, item: instructions.Send) -> None:
        match item:
            case instructions.Acknowledge(node_id, ref, verdict):
                value = fleet_service_pb2.ResultVerdict.ValueType(verdict)
                ack = fleet_service_pb2.ResultAck(ref=wire.ref_message(ref), verdict=value)
                self._sessions.send(node_id, Outgoing(result_ack=ack))
            case instructions.StopAttempt(node_id, ref, reason):
                stop = fleet_service_pb2.CancelAttempt(ref=wire.ref_message(ref), reason=reason)
                self._sessions.send(node_id, Outgoing(cancel=stop))
            case instructions.SendProbe(node_id, probe_id, slot):
                probe = fleet_service_pb2.Probe(probe_id=probe_id, slot=slot)
                self._sessions.send(node_id, Outgoing(probe=probe))
            case instructions.TellDrain(node_id, True):
                self._sessions.send(node_id, Outgoing(drain=fleet_service_pb2.Drain()))
            case instructions.TellDrain(node_id, False):
                self._sessions.send(node_id, Outgoing(resume=fleet_service_pb2.Resume()))

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


def _clock_offset_s() -> float:
    """How far the decisions' clock is ahead of the wall's."""
    return time.monotonic() - time.time()


def _job_id(write: instructions.Write) -> str:
    assert not isinstance(write, instructions.Record)
    return write.job_id if isinstance(write, instructions.CommitCancel) else write.ref.job_id


def _assignment(write: instructions.Assign, given: Given, link: Link) -> fleet_service_pb2.Assignment:
    return fleet_service_pb2.Assignment(
        ref=wire.ref_message(write.ref),
        tenant=given.tenant,
        spec=given.spec,
        portrait=_artifact(given.portrait),
        voice=_artifact(given.voice),
        portrait_url=link(given.tenant, given.spec.portrait_sha256),
        voice_url=link(given.tenant, given.spec.voice_sha256),
        slot=write.slot,
        queued_seconds=given.queued_s,
        checkpoint=_state(given.checkpoint) if given.checkpoint else None,
    )


def _state(row: sa.Row[Any]) -> artifacts_pb2.Artifact:
    return artifacts_pb2.Artifact(sha256=row.sha256, size_bytes=row.size_bytes)


def _artifact(row: sa.Row[Any]) -> artifacts_pb2.Artifact:
    return artifacts_pb2.Artifact(sha256=row.sha256, size_bytes=row.size_bytes, media_type=row.media_type)
