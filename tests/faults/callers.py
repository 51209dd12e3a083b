"""Callers of several tenants: each submits jobs, follows, lists and cancels them, and writes down every answer.

A call whose outcome is unclear is repeated until it is answered, a submission with the same idempotency key.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from sonic.v1 import artifacts_pb2, job_service_pb2_grpc, jobs_pb2, parameters_pb2
from sonic.v1 import job_service_pb2 as pb
from tests.faults.history import Book, Call, Seen, seen
from tests.hub.peers import JPEG, WAV, digest

TENANTS = ("acme", "globex", "initech")
CALL_TIMEOUT_S = 4.0
UPLOADED_WITHIN_S = 120.0
PAUSE_S, LONGEST_PAUSE_S, LIST_EVERY_S = 0.3, 5.0, 1.5
CANCELLED_SHARE, DEADLINE_SHARE, REPEATED_SHARE = 0.08, 0.04, 0.15
WATCHED_SHARE = 0.6
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_UNCLEAR = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_LATE = "INVALID_ARGUMENT: spec.deadline "


@dataclass
class Caller:
    """One caller; it asks any hub, another one for every call."""

    name: str
    tenant: str
    targets: list[str]
    book: Book
    chance: random.Random
    credentials: grpc.ChannelCredentials
    key: str
    submitted: int = 0
    following: dict[str, str] = field(default_factory=dict)  # jobs whose end it has not been told, and how it waits
    _stubs: list[Any] = field(default_factory=list)
    _channels: list[grpc.aio.Channel] = field(default_factory=list)

    def open(self) -> None:
        self._channels = [
            grpc.aio.secure_channel(target, self.credentials, options=_OPTIONS) for target in self.targets
        ]
        self._stubs = [job_service_pb2_grpc.JobServiceStub(channel) for channel in self._channels]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def upload_inputs(self) -> None:
        until_s = time.monotonic() + UPLOADED_WITHIN_S
        for data in (JPEG, WAV):
            while True:
                try:
                    await self._hub.UploadArtifact(_parts(data), timeout=CALL_TIMEOUT_S, metadata=self._metadata)
                    break
                except grpc.aio.AioRpcError:
                    if time.monotonic() > until_s:
                        raise
                    await asyncio.sleep(PAUSE_S)

    async def work(self, jobs: int, per_s: float) -> None:
        """Submit so many jobs at about this rate, and see each to its end."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(jobs):
                tasks.create_task(self._life(f"{self.name}-{number}"), name=f"job {number} of {self.name}")
                await asyncio.sleep(self.chance.expovariate(per_s))

    async def list_now_and_then(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self._list()
            await asyncio.sleep(LIST_EVERY_S)

    async def _life(self, key: str) -> None:
        spec = self._spec()
        job = await self._submit(key, spec)
        self.submitted += 1
        if job is None:
            return
        self.following[job.job_id] = "watch"
        async with asyncio.TaskGroup() as tasks:
            if self.chance.random() < CANCELLED_SHARE:
                tasks.create_task(self._cancel_later(job.job_id))
            if self.chance.random() < WATCHED_SHARE:
                await self._watch(job)
            else:
                self.following[job.job_id] = "get"
                await self._get_until_ended(job)
        del self.following[job.job_id]
        self._note("follow", time.monotonic(), "ok", job_id=job.job_id)
        if self.chance.random() < REPEATED_SHARE:
            await self._submit(key, spec)

    def _spec(self) -> jobs_pb2.JobSpec:
        spec = jobs_pb2.JobSpec(
            portrait_sha256=digest(JPEG),
            voice_sha256=digest(WAV),
            priority=self.chance.randint(-2, 2),
            parameters=parameters_pb2.RenderParameters(duration=self.chance.uniform(0.1, 1.5), min_resolution=256),
        )
        if self.chance.random() < 0.1:
            spec.regions.require.append(self.chance.choice(("eu", "us")))
        if self.chance.random() < DEADLINE_SHARE:
            spec.deadline.FromMilliseconds(int(1000 * (time.time() + self.chance.uniform(3, 20))))
        return spec

    async def _submit(self, key: str, spec: jobs_pb2.JobSpec) -> Seen | None:
        request = pb.SubmitJobRequest(idempotency_key=key, spec=spec)
        return await self._until_answered("submit", "SubmitJob", request, key=key)

    async def _cancel_later(self, job_id: str) -> None:
        await asyncio.sleep(self.chance.uniform(0, 2))
        await self._until_answered("cancel", "CancelJob", pb.CancelJobRequest(job_id=job_id), job_id=job_id)

    async def _get_until_ended(self, job: Seen) -> None:
        pause_s = PAUSE_S
        while not job.final:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
            request = pb.GetJobRequest(job_id=job.job_id)
            job = await self._until_answered("get", "GetJob", request, job_id=job.job_id) or job

    async def _watch(self, job: Seen) -> None:
        failures = 0
        while not job.final:
            request = pb.WatchJobRequest(job_id=job.job_id, after_revision=job.revision)
            began_s = time.monotonic()
            call = self._hub.WatchJob(request, timeout=4 * CALL_TIMEOUT_S, metadata=self._metadata)
            try:
                async for response in call:
                    shown = seen(response.job)
                    if shown != job:
                        job, failures = shown, 0
                        self._note("watch", began_s, "ok", job_id=job.job_id, jobs=(job,))
            except grpc.aio.AioRpcError as error:
                self._failed("watch", began_s, error, job_id=job.job_id)
                failures += 1
                await self._pause(failures)

    async def _list(self) -> None:
        began_s, token, found = time.monotonic(), "", []
        while True:
            request = pb.ListJobsRequest(page_size=500, page_token=token)
            try:
                page = await self._hub.ListJobs(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                self._failed("list", began_s, error)
                return
            found += [seen(job) for job in page.jobs]
            if not (token := page.next_page_token):
                self._note("list", began_s, "ok", jobs=tuple(found))
                return

    async def _until_answered(self, kind: str, method: str, request: Any, **about: str) -> Seen | None:
        """None when the job's deadline passed before the hub could be asked."""
        for failures in itertools.count(1):
            began_s = time.monotonic()
            call: Callable[..., Any] = getattr(self._hub, method)
            try:
                answer = await call(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                if self._failed(kind, began_s, error, **about) == "refused":
                    return None
                await self._pause(failures)
                continue
            job = seen(answer.job)
            self._note(kind, began_s, "ok", jobs=(job,), **about)
            return job
        return None

    async def _pause(self, failures: int) -> None:
        """Longer with every failure, as clients do."""
        longest_s = min(PAUSE_S * 2 ** min(failures, 10), LONGEST_PAUSE_S)
        await asyncio.sleep(self.chance.uniform(longest_s / 2, longest_s))

    def _failed(self, kind: str, began_s: float, error: grpc.aio.AioRpcError, **about: Any) -> str:
        detail = f"{error.code().name}: {error.details()}"
        late = kind == "submit" and _LATE in detail
        outcome = "unclear" if error.code() in _UNCLEAR else "refused" if late else "broken"
        self._note(kind, began_s, outcome, detail=detail, **about)
        return outcome

    def _note(self, kind: str, began_s: float, outcome: str, **about: Any) -> None:
        """Lists and cancels go beside the rest, and may be answered before what was said earlier on another stream."""
        caller = f"{kind}s of {self.name}" if kind in ("list", "cancel") else self.name
        self.book.add(Call(kind, caller, self.tenant, began_s, time.monotonic(), outcome, **about))

    @property
    def _hub(self) -> Any:
        return self.chance.choice(self._stubs)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)


async def _parts(data: bytes) -> AsyncIterator[pb.UploadArtifactRequest]:
    yield pb.UploadArtifactRequest(header=artifacts_pb2.UploadHeader(sha256=digest(data), size_bytes=len(data)))
    yield pb.UploadArtifactRequest(chunk=data)
