"""JobService: what callers use. The contract is in proto/sonic/v1/job_service.proto."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from hub import exceptions, wire
from hub.artifacts.depot import is_hash
from hub.core import events
from hub.core.jobs import State
from hub.core.prospects import Outlook
from hub.core.tenants import Everybody, Tenant
from hub.server import submissions, transfers, views
from hub.server.callers import Context, tenant_of
from hub.server.dispatcher import Dispatcher
from hub.server.gathered import Gathered
from hub.server.runs import Run, submit_error
from hub.server.tenant_limits import Door
from hub.server.watchers import Watchers
from hub.store import records
from hub.store.quotas import Full, Submission
from hub.store.records import JobRecord, NewJob, Page
from sonic.parameters import Problem
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import job_service_pb2_grpc, jobs_pb2

T = TypeVar("T")
DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
_LAST_S = 253_402_300_800  # the year 10000
_STATES = {value: key for key, value in views.STATES.items()}


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """Every query takes the tenant of the call; there is none that would answer without."""

    def __init__(
        self,
        database: sa.Engine,
        dispatcher: Dispatcher,
        files: transfers.Transfers,
        watchers: Watchers,
        door: Door,
    ) -> None:
        self._database = database
        self._jobs = Gathered(database, records.jobs_of)
        self._keys = Gathered(database, _used)
        self._dispatcher = dispatcher
        self._files = files
        self._watchers = watchers
        self._door = door

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.GetArtifactResponse:
        return pb.GetArtifactResponse(status=await self._files.status(tenant_of(context), request.sha256))

    async def UploadArtifact(
        self, request: AsyncIterator[pb.UploadArtifactRequest], context: Context
    ) -> pb.UploadArtifactResponse:
        tenant = tenant_of(context)
        header, chunks = await transfers.unpack(request)
        return pb.UploadArtifactResponse(artifact=await self._files.upload(tenant, header, chunks))

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        artifact, chunks = await self._files.download(tenant_of(context), request.sha256, request.range)
        yield pb.DownloadArtifactResponse(artifact=artifact)
        async for chunk in chunks:
            yield pb.DownloadArtifactResponse(chunk=chunk)

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Context) -> pb.SubmitJobResponse:
        (outcome,) = await self._submit(tenant_of(context), [request])
        if isinstance(outcome, exceptions.Refusal):
            raise outcome
        return pb.SubmitJobResponse(job=outcome)

    async def SubmitBatch(self, request: pb.SubmitBatchRequest, context: Context) -> pb.SubmitBatchResponse:
        tenant = tenant_of(context)
        submissions.check_count(request.items)
        outcomes = await self._submit(tenant, request.items)
        return pb.SubmitBatchResponse(items=[_batch_item(outcome) for outcome in outcomes])

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=await self._job(tenant_of(context), request.job_id))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        tenant = tenant_of(context)
        wanted = Page(
            size=page_size(request.page_size),
            before_sequence=parse_token(request.page_token),
            states=states(request.states),
            submitted_after_s=_seconds(request, "submitted_after"),
            submitted_before_s=_seconds(request, "submitted_before"),
        )
        found, token = await list_page(self._database, tenant, wanted)
        return pb.ListJobsResponse(jobs=self.show_all(found), next_page_token=token)

    async def ExplainJob(self, request: pb.ExplainJobRequest, context: Context) -> pb.ExplainJobResponse:
        record = await self._record(tenant_of(context), request.job_id)
        found = views.decisions(record)
        if waits := self._dispatcher.explain(request.job_id):
            found.append(wire.decision_message(waits, time.time(), ""))
        return pb.ExplainJobResponse(job=self.show(record), decisions=found)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        tenant = tenant_of(context)
        if not (await self._record(tenant, request.job_id)).state.ended:
            self._dispatcher.look_again([request.job_id])  # another hub may have taken it in just now
            await self._dispatcher.settle(events.CancelRequested(request.job_id))
        return pb.CancelJobResponse(job=await self._job(tenant, request.job_id))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        tenant = tenant_of(context)
        seen: jobs_pb2.Job | None = None
        with self._watchers.on(request.job_id) as changed:
            while True:
                record = await self._record(tenant, request.job_id)
                job = self.show(record)
                if _news(seen, job, request.after_revision):
                    yield pb.WatchJobResponse(job=job)
                seen = job
                if record.state.ended:
                    return
                await self._watchers.news(changed)

    async def RunJobs(
        self, request: AsyncIterator[pb.RunJobsRequest], context: Context
    ) -> AsyncIterator[pb.RunJobsResponse]:
        tenant = tenant_of(context)

        async def ended(job_ids: Collection[str]) -> list[jobs_pb2.Job]:
            found = await self._jobs.get_all([(tenant, job_id) for job_id in job_ids])
            return [views.job(record, Outlook()) for record in found.values() if record.state.ended]

        run = Run(lambda items: self._take_in(tenant, items), ended, self._dispatcher.is_live, self._watchers)
        async for response in run.answers(request):
            yield response

    def show(self, record: JobRecord) -> jobs_pb2.Job:
        return self.show_all([record])[0]

    def show_all(self, found: Sequence[JobRecord]) -> list[jobs_pb2.Job]:
        outlooks = self._dispatcher.outlooks(record.row.job_id for record in found)
        return [views.job(record, outlook) for record, outlook in zip(found, outlooks, strict=True)]

    async def _job(self, tenant: Tenant, job_id: str) -> jobs_pb2.Job:
        return self.show(await self._record(tenant, job_id))

    async def _record(self, tenant: Tenant, job_id: str) -> JobRecord:
        record = await self._jobs.get((tenant, job_id))
        if record is None:
            raise exceptions.NotFound(f"there is no job {job_id[:80]!r}")
        return record

    async def _submit(
        self, tenant: Tenant, requests: Sequence[pb.SubmitJobRequest]
    ) -> list[jobs_pb2.Job | exceptions.Refusal]:
        taken = await self._take_in(tenant, requests)
        shown = iter(self.show_all([one for one in taken if isinstance(one, JobRecord)]))
        return [next(shown) if isinstance(one, JobRecord) else one for one in taken]

    async def _take_in(
        self, tenant: Tenant, requests: Sequence[pb.SubmitJobRequest]
    ) -> list[JobRecord | exceptions.Refusal]:
        """Store those of them that can be. Raises LimitReached, NotNow."""
        hashes = {sha for item in requests for sha in (item.spec.portrait_sha256, item.spec.voice_sha256)}
        held = await self._files.held(tenant, filter(is_hash, hashes))
        known: set[str] = set()
        outcomes = self._judge(tenant, requests, held, known)
        smooth = all(isinstance(one, NewJob) and not one.cautions for one in outcomes)
        if not smooth or not self._door.has_room(tenant, len(outcomes)):
            keys = [item.idempotency_key for item in requests]
            known = await self._known_keys(tenant, set(filter(submissions.can_be_key, keys)))
            outcomes = self._judge(tenant, requests, held, known)
        good = [outcome for outcome in outcomes if isinstance(outcome, NewJob)]
        count = len({job.idempotency_key for job in good} - known)
        with self._door.passing(tenant, count) as at_most:
            stored = await self._dispatcher.submit(Submission(good, at_most)) if good else []
        if isinstance(stored, Full):
            raise self._door.full(tenant, stored.queued, count)
        answers = map(_answer, good, stored)
        return [next(answers) if isinstance(one, NewJob) else one for one in outcomes]

    def _judge(
        self, tenant: Tenant, requests: Sequence[pb.SubmitJobRequest], held: Mapping[str, sa.Row[Any]], known: set[str]
    ) -> list[NewJob | exceptions.Refusal]:
        """Jobs that can be stored, and refusals. A `known` key matters only where something stands in the way."""
        now_s = time.time()
        outcomes: list[NewJob | exceptions.Refusal] = []
        for item in requests:
            try:
                again = item.idempotency_key in known
                outcomes.append(submissions.new_job(tenant, item, held, again, now_s, self._dispatcher.admit))
            except exceptions.Refusal as refusal:
                outcomes.append(refusal)
        return outcomes

    async def _known_keys(self, tenant: Tenant, keys: set[str]) -> set[str]:
        if len(keys) == 1:
            (key,) = keys
            return keys if await self._keys.get((tenant, key)) else set()
        pairs = [(tenant, key) for key in keys]
        found = await reading(self._database, lambda connection: records.known_keys(connection, pairs))
        return {key for _, key in found}


def _answer(wanted: NewJob, stored: tuple[JobRecord, bool]) -> JobRecord | exceptions.Refusal:
    record, created = stored
    if not created and record.row.spec != wanted.spec:
        return exceptions.KeyReused(
            f"idempotency_key {wanted.idempotency_key!r} belongs to job {record.row.job_id}, "
            "which has another spec; use a fresh key for each video wanted"
        )
    return record


def _used(connection: sa.Connection, keys: Collection[tuple[Tenant, str]]) -> dict[tuple[Tenant, str], bool]:
    return dict.fromkeys(records.known_keys(connection, keys), True)


async def reading(database: sa.Engine, read: Callable[[sa.Connection], T]) -> T:
    """Run a query in a thread of its own."""

    def work() -> T:
        with database.connect() as connection:
            return read(connection)

    return await asyncio.to_thread(work)


async def list_page(database: sa.Engine, tenant: Tenant | Everybody, wanted: Page) -> tuple[list[JobRecord], str]:
    """One page of jobs, and the token of the next one; empty on the last."""
    found = await reading(database, lambda connection: records.page(connection, tenant, wanted))
    return found, _make_token(found[-1].row.sequence) if len(found) == wanted.size else ""


def page_size(asked: int) -> int:
    """Raises InvalidRequest."""
    if not 0 <= asked <= MAX_PAGE_SIZE:
        raise exceptions.InvalidRequest([Problem("page_size", f"is {asked}; choose a value from 1 to {MAX_PAGE_SIZE}")])
    return asked or DEFAULT_PAGE_SIZE


def states(asked: Sequence[jobs_pb2.JobState.ValueType]) -> tuple[State, ...]:
    """Raises InvalidRequest."""
    unknown = [value for value in asked if value not in _STATES]
    if unknown:
        raise exceptions.InvalidRequest([Problem("states", f"has {unknown[0]}, which is no state of a job")])
    return tuple(_STATES[value] for value in asked)


def _batch_item(outcome: jobs_pb2.Job | exceptions.Refusal) -> pb.BatchItem:
    if isinstance(outcome, jobs_pb2.Job):
        return pb.BatchItem(job=outcome)
    return pb.BatchItem(error=submit_error(outcome))


def _news(seen: jobs_pb2.Job | None, job: jobs_pb2.Job, known_revision: int) -> bool:
    """Worth sending: a state that the caller does not know, progress, another place in the queue; not the ETA alone."""
    if seen is None or job.revision != seen.revision:
        return job.revision > known_revision
    return job.progress != seen.progress or job.queue_position != seen.queue_position


def _make_token(sequence: int) -> str:
    return base64.urlsafe_b64encode(str(sequence).encode()).decode()


def parse_token(token: str) -> int | None:
    """Raises InvalidRequest."""
    try:
        at = int(base64.urlsafe_b64decode(token)) if token else None
        if at is not None and not 0 <= at < 2**63:
            raise ValueError(token)
        return at
    except (ValueError, binascii.Error):
        problem = Problem("page_token", "is not one that this hub gave; start again without one")
        raise exceptions.InvalidRequest([problem]) from None


def _seconds(request: Any, name: str) -> float | None:
    """Raises InvalidRequest."""
    if not request.HasField(name):
        return None
    moment = getattr(request, name)
    if not (abs(moment.seconds) < _LAST_S and 0 <= moment.nanos < 1e9):
        raise exceptions.InvalidRequest([Problem(name, "is no time between the years 1 and 9999")])
    return float(moment.ToNanoseconds() / 1e9)
