"""The client library: submit jobs, follow them, fetch videos; for operators, look at nodes, drain and try them.

`AsyncSonicClient` is for asyncio, `SonicClient` the same for everybody else. Every call is safe to repeat and is
repeated while the hub cannot be reached, until it has not moved forward for `patience_s`.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from sonic import exceptions, files, parameters, transfers
from sonic.access import Access
from sonic.connection import Connection
from sonic.credentials import Credentials
from sonic.parameters import Problem
from sonic.runs import Runs
from sonic.v1 import (
    admin_service_pb2,
    artifacts_pb2,
    decisions_pb2,
    enrolment_service_pb2,
    job_service_pb2,
    jobs_pb2,
    nodes_pb2,
    parameters_pb2,
)

T = TypeVar("T")
DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TENANT = ""
DEFAULT_PATIENCE_S = 60.0
MAX_BATCH_ITEMS = 1000
FINAL_STATES = frozenset({jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED})
_PAGE_SIZE = 200


class AsyncSonicClient:
    """Calls of one tenant to the hub at `target` (host:port). Methods raise exceptions.HubError.

    Where there are several hubs, `target` names them separated by commas; when one is gone the next is called.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        tenant: str = DEFAULT_TENANT,
        *,
        patience_s: float = DEFAULT_PATIENCE_S,
        insecure: bool = False,
        ca_file: Path | None = None,
        api_key_file: Path | None = None,
        token_file: Path | None = None,
    ) -> None:
        """Make it where a loop runs. `patience_s` is how long a call that makes no progress is tried again.

        `ca_file` holds the certificate of the hub's authority, in PEM; without it the authority of a hub of this user
        on this machine is trusted if there is one, else those that gRPC trusts. `insecure` is for a hub on this machine
        that was started with --insecure: plain text, and no credential.
        `api_key_file` or `token_file` holds the credential, and is read anew for each call; without either the key in
        SONIC_API_KEY is used. `tenant` need only be named by operators. Raises FileTrouble, BadSettings.
        """
        credentials = Credentials(api_key_file, token_file)
        self._hub = Connection(target, tenant, patience_s, insecure=insecure, ca_file=ca_file, credentials=credentials)
        self.access = Access(self._hub)
        self._runs = Runs(self._hub)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._runs.close()
        await self._hub.close()

    async def upload(self, path: Path | str) -> artifacts_pb2.Artifact:
        """Send a file, or what the hub lacks of it. Raises FileTrouble."""
        files.check_inputs(Path(path))
        sha256 = await asyncio.to_thread(transfers.sha256_of, Path(path))
        return await transfers.upload(self._hub, Path(path), sha256)

    async def submit(
        self,
        portrait: Path | str,
        voice: Path | str,
        *,
        engine: str = "",
        model_version: str = "",
        priority: int = 0,
        prefer_regions: Iterable[str] = (),
        require_regions: Iterable[str] = (),
        avoid_regions: Iterable[str] = (),
        deadline: datetime | None = None,
        idempotency_key: str = "",
        **given: Any,
    ) -> jobs_pb2.Job:
        """Upload a portrait and a voice and ask for a video; `given` are render parameters, see docs/parameters.md.

        A job that cannot end by its `deadline`, a time with an offset, fails without using a GPU.
        The answered job has been stored. Raises parameters.InvalidParameters before anything is sent, FileTrouble.
        """
        wanted = wire_parameters(given, engine)
        files.check_inputs(Path(portrait), Path(voice))
        spec = jobs_pb2.JobSpec(
            portrait_sha256=(await self.upload(portrait)).sha256,
            voice_sha256=(await self.upload(voice)).sha256,
            engine=engine,
            model_version=model_version,
            parameters=wanted,
            priority=priority,
            regions=region_rules(prefer_regions, require_regions, avoid_regions),
            deadline=timestamp(deadline),
        )
        request = job_service_pb2.SubmitJobRequest(spec=spec, idempotency_key=idempotency_key or uuid.uuid4().hex)
        try:
            return (await self._hub.call(self._hub.jobs.SubmitJob, request)).job
        except exceptions.InvalidRequest as error:
            raise _in_callers_words(error, portrait, voice) from error

    async def submit_batch(
        self, items: Iterable[job_service_pb2.SubmitJobRequest]
    ) -> list[jobs_pb2.Job | job_service_pb2.SubmitError]:
        """Submit many jobs whose files are uploaded; one answer for each item, in order."""
        answers: list[jobs_pb2.Job | job_service_pb2.SubmitError] = []
        wanted = list(items)
        for start in range(0, len(wanted), MAX_BATCH_ITEMS):
            request = job_service_pb2.SubmitBatchRequest(items=wanted[start : start + MAX_BATCH_ITEMS])
            response = await self._hub.call(self._hub.jobs.SubmitBatch, request)
            answers += [item.job if item.HasField("job") else item.error for item in response.items]
        return answers

    async def run(self, item: job_service_pb2.SubmitJobRequest) -> jobs_pb2.Job:
        """Submit a job whose files are uploaded, and answer it once it has ended, however.

        All that run at a time share one call, so that many small jobs cost little more than one.
        """
        return await self._runs.run(item)

    async def get(self, job_id: str) -> jobs_pb2.Job:
        return (await self._hub.call(self._hub.jobs.GetJob, job_service_pb2.GetJobRequest(job_id=job_id))).job

    async def explain(self, job_id: str) -> list[decisions_pb2.Decision]:
        """What was decided about a job, the oldest first; while it waits, what stands in its way. Raises SonicError."""
        request = job_service_pb2.ExplainJobRequest(job_id=job_id)
        return list((await self._hub.call(self._hub.jobs.ExplainJob, request)).decisions)

    async def cancel(self, job_id: str) -> jobs_pb2.Job:
        """The job after the call; one that had ended is left as it is."""
        return (await self._hub.call(self._hub.jobs.CancelJob, job_service_pb2.CancelJobRequest(job_id=job_id))).job

    async def jobs(self, states: Iterable[jobs_pb2.JobState.ValueType] = ()) -> AsyncIterator[jobs_pb2.Job]:
        """The tenant's jobs, the newest first; in any state when `states` is empty."""
        request = job_service_pb2.ListJobsRequest(page_size=_PAGE_SIZE, states=states)
        async for job in self._pages(self._hub.jobs.ListJobs, request):
            yield job

    async def all_jobs(
        self, states: Iterable[jobs_pb2.JobState.ValueType] = (), tenant: str = ""
    ) -> AsyncIterator[jobs_pb2.Job]:
        """`jobs` of every tenant, or of one. For operators."""
        request = admin_service_pb2.ListAllJobsRequest(page_size=_PAGE_SIZE, states=states, tenant=tenant)
        async for job in self._pages(self._hub.admin.ListAllJobs, request):
            yield job

    async def _pages(self, method: Any, request: Any) -> AsyncIterator[jobs_pb2.Job]:
        while True:
            page = await self._hub.call(method, request)
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch(self, job_id: str) -> AsyncIterator[jobs_pb2.Job]:
        """The job as it is and as it becomes, across cuts, until it has ended."""
        patience = self._hub.patience()
        last = jobs_pb2.Job()
        while True:
            # After a cut the hub is asked for what is known already: it is there again once it has said it.
            request = job_service_pb2.WatchJobRequest(job_id=job_id, after_revision=max(last.revision - 1, 0))
            call = self._hub.jobs.WatchJob(request, metadata=self._hub.metadata)
            try:
                async for response in call:
                    patience.renew()
                    known, last = last, response.job
                    if last != known:
                        yield last
                    if last.state in FINAL_STATES:
                        return
                raise exceptions.HubFailed(f"the hub stopped telling of job {job_id} before it had ended")
            except grpc.aio.AioRpcError as error:
                await patience.pause(error)
            finally:
                call.cancel()

    async def wait(self, job_id: str) -> jobs_pb2.Job:
        """The job once it has succeeded. Raises JobFailed, JobCancelled."""
        last = jobs_pb2.Job()
        async for job in self.watch(job_id):
            last = job
        if failure := exceptions.from_job(last):
            raise failure
        return last

    async def download(self, job: jobs_pb2.Job, destination: Path | str) -> Path:
        """Fetch the video of a job that has succeeded, whole. Raises FileTrouble, JobEnded, JobUnfinished."""
        if not job.HasField("video"):
            unfinished = exceptions.JobUnfinished(f"job {job.job_id} has not ended; wait for it first")
            raise exceptions.from_job(job) or unfinished
        return await transfers.download(self._hub, job.video.sha256, Path(destination))

    async def nodes(self, region: str = "") -> list[nodes_pb2.Node]:
        """Every node ever seen, of one region or of all. For operators."""
        request = admin_service_pb2.ListNodesRequest(region=region)
        return [*(await self._hub.call(self._hub.admin.ListNodes, request)).nodes]

    async def node(self, node_id: str) -> nodes_pb2.Node:
        request = admin_service_pb2.GetNodeRequest(node_id=node_id)
        return (await self._hub.call(self._hub.admin.GetNode, request)).node

    async def explain_node(self, node_id: str) -> admin_service_pb2.ExplainNodeResponse:
        """A node's health and what was decided about it, the newest first. Raises SonicError."""
        request = admin_service_pb2.ExplainNodeRequest(node_id=node_id)
        answer: admin_service_pb2.ExplainNodeResponse = await self._hub.call(self._hub.admin.ExplainNode, request)
        return answer

    async def create_join_token(
        self, region: str, *, uses: int = 1, ttl: timedelta = timedelta(days=1), node_id: str = ""
    ) -> admin_service_pb2.CreateJoinTokenResponse:
        """For operators: a token with which boxes join; its `text` is shown only now."""
        request = admin_service_pb2.CreateJoinTokenRequest(
            region=region, uses=uses, ttl_seconds=ttl.total_seconds(), node_id=node_id
        )
        return await self._hub.call(self._hub.admin.CreateJoinToken, request)

    async def join_tokens(self) -> list[enrolment_service_pb2.JoinToken]:
        """For operators: the tokens, the newest first."""
        request = admin_service_pb2.ListJoinTokensRequest()
        return list((await self._hub.call(self._hub.admin.ListJoinTokens, request)).tokens)

    async def revoke_join_token(self, token_id: str) -> None:
        """For operators: nobody joins with it any more."""
        request = admin_service_pb2.RevokeJoinTokenRequest(token_id=token_id)
        await self._hub.call(self._hub.admin.RevokeJoinToken, request)

    async def revoke_node(self, node_id: str, *, undo: bool = False) -> None:
        """For operators: the node is none any more, at once; or it is one again."""
        request = admin_service_pb2.RevokeNodeRequest(node_id=node_id, undo=undo)
        await self._hub.call(self._hub.admin.RevokeNode, request)

    async def drain(self, node_id: str) -> nodes_pb2.Node:
        """Give a node nothing new; what it has is finished. For operators."""
        request = admin_service_pb2.DrainNodeRequest(node_id=node_id)
        return (await self._hub.call(self._hub.admin.DrainNode, request)).node

    async def resume(self, node_id: str) -> nodes_pb2.Node:
        """Take a drain back. For operators."""
        request = admin_service_pb2.ResumeNodeRequest(node_id=node_id)
        return (await self._hub.call(self._hub.admin.ResumeNode, request)).node

    async def play_fault(self, node_id: str, fault: str, seconds: float) -> None:
        """Let a node that allows it suffer `fault` (heat, xid, leak, slow, cut or skew); 0 ends it. For operators."""
        kind = nodes_pb2.GameDayFault.Value(f"GAME_DAY_FAULT_{fault.upper()}")
        played = nodes_pb2.PlayFault(fault=kind, seconds=seconds)
        request = admin_service_pb2.PlayFaultRequest(node_id=node_id, fault=played)
        await self._hub.call(self._hub.admin.PlayFault, request)


class SonicClient:
    """`AsyncSonicClient` without asyncio; it may be used from any thread, also where a loop already runs."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        tenant: str = DEFAULT_TENANT,
        *,
        patience_s: float = DEFAULT_PATIENCE_S,
        insecure: bool = False,
        ca_file: Path | None = None,
        api_key_file: Path | None = None,
        token_file: Path | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sonic-client", daemon=True)
        self._thread.start()

        async def make() -> AsyncSonicClient:
            return AsyncSonicClient(
                target,
                tenant,
                patience_s=patience_s,
                insecure=insecure,
                ca_file=ca_file,
                api_key_file=api_key_file,
                token_file=token_file,
            )

        self._client = self._run(make())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def upload(self, path: Path | str) -> artifacts_pb2.Artifact:
        return self._run(self._client.upload(path))

    def submit(self, portrait: Path | str, voice: Path | str, **given: Any) -> jobs_pb2.Job:
        """Takes what AsyncSonicClient.submit takes."""
        return self._run(self._client.submit(portrait, voice, **given))

    def submit_batch(
        self, items: Iterable[job_service_pb2.SubmitJobRequest]
    ) -> list[jobs_pb2.Job | job_service_pb2.SubmitError]:
        return self._run(self._client.submit_batch(items))

    def run(self, item: job_service_pb2.SubmitJobRequest) -> jobs_pb2.Job:
        return self._run(self._client.run(item))

    def get(self, job_id: str) -> jobs_pb2.Job:
        return self._run(self._client.get(job_id))

    def explain(self, job_id: str) -> list[decisions_pb2.Decision]:
        return self._run(self._client.explain(job_id))

    def cancel(self, job_id: str) -> jobs_pb2.Job:
        return self._run(self._client.cancel(job_id))

    def jobs(self, states: Iterable[jobs_pb2.JobState.ValueType] = ()) -> Iterator[jobs_pb2.Job]:
        return self._iterate(self._client.jobs(states))

    def watch(self, job_id: str) -> Iterator[jobs_pb2.Job]:
        return self._iterate(self._client.watch(job_id))

    def wait(self, job_id: str) -> jobs_pb2.Job:
        return self._run(self._client.wait(job_id))

    def download(self, job: jobs_pb2.Job, destination: Path | str) -> Path:
        return self._run(self._client.download(job, destination))

    def nodes(self, region: str = "") -> list[nodes_pb2.Node]:
        return self._run(self._client.nodes(region))

    def node(self, node_id: str) -> nodes_pb2.Node:
        return self._run(self._client.node(node_id))

    def explain_node(self, node_id: str) -> admin_service_pb2.ExplainNodeResponse:
        return self._run(self._client.explain_node(node_id))

    def create_join_token(
        self, region: str, *, uses: int = 1, ttl: timedelta = timedelta(days=1), node_id: str = ""
    ) -> admin_service_pb2.CreateJoinTokenResponse:
        return self._run(self._client.create_join_token(region, uses=uses, ttl=ttl, node_id=node_id))

    def join_tokens(self) -> list[enrolment_service_pb2.JoinToken]:
        return self._run(self._client.join_tokens())

    def revoke_join_token(self, token_id: str) -> None:
        self._run(self._client.revoke_join_token(token_id))

    def revoke_node(self, node_id: str, *, undo: bool = False) -> None:
        self._run(self._client.revoke_node(node_id, undo=undo))

    def drain(self, node_id: str) -> nodes_pb2.Node:
        return self._run(self._client.drain(node_id))

    def resume(self, node_id: str) -> nodes_pb2.Node:
        return self._run(self._client.resume(node_id))

    def play_fault(self, node_id: str, fault: str, seconds: float) -> None:
        self._run(self._client.play_fault(node_id, fault, seconds))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        nothing: Any = object()

        async def following() -> T:
            return await anext(items, nothing)

        while (item := self._run(following())) is not nothing:
            yield item


def region_rules(
    prefer: Iterable[str] = (), require: Iterable[str] = (), avoid: Iterable[str] = ()
) -> jobs_pb2.RegionRules | None:
    """Where a job may and should run; None when it is all the same."""
    rules = jobs_pb2.RegionRules(prefer=prefer, require=require, avoid=avoid)
    return rules if rules.ByteSize() else None


def timestamp(when: datetime | None) -> Timestamp | None:
    """A time as a message; None stays None. Raises ValueError for one without an offset."""
    if when is None:
        return None
    if when.tzinfo is None:
        raise ValueError(f"deadline is {when}, which has no offset; give it one, for example tzinfo=UTC")
    message = Timestamp()
    message.FromDatetime(when)
    return message


def callers_name(field: str) -> str:
    """The hub names fields of its request; the caller gave files and parameters."""
    return field.removeprefix("spec.").removeprefix("parameters.").removesuffix("_sha256")


def _in_callers_words(
    error: exceptions.InvalidRequest, portrait: Path | str, voice: Path | str
) -> exceptions.InvalidRequest:
    inputs = {"portrait": f"the portrait {portrait}", "voice": f"the voice {voice}"}
    named = [Problem(callers_name(problem.field), problem.description) for problem in error.problems]
    problems = [Problem(inputs.get(problem.field, problem.field), problem.description) for problem in named]
    message = parameters.told(problems) or error.message
    return exceptions.InvalidRequest(message, reason=error.reason, problems=problems)


def wire_parameters(given: dict[str, Any], engine: str = "") -> parameters_pb2.RenderParameters:
    """Only what was given, checked; the defaults are filled in by the hub. Raises parameters.InvalidParameters."""
    parameters.complete(given, engine)
    return parameters_pb2.RenderParameters(**{name: value for name, value in given.items() if value is not None})
