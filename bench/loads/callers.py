"""A caller of the hub, for load: runs no-op jobs one by one or in batches, and follows them to their end."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from typing import Any

import grpc.aio

from bench.loads import pace
from sonic.client import AsyncSonicClient
from sonic.v1 import artifacts_pb2, job_service_pb2_grpc, jobs_pb2
from sonic.v1 import job_service_pb2 as pb

PORTRAIT = b"\xff\xd8\xff\xe0" + b"portrait" * 4
VOICE = b"RIFF\x00\x00\x00\x00WAVEfmt " + b"voice" * 8
VIDEO = b"\x00\x00\x00\x18ftypisom" + b"video" * 4
LIVE = (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_ASSIGNED, jobs_pb2.JOB_STATE_RUNNING)
FINAL = (jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED)


class Caller:
    """One tenant's calls."""

    def __init__(self, target: str, portrait: str, voice: str, tenant: str = "bench") -> None:
        self._client = AsyncSonicClient(target, tenant, insecure=True)
        self.jobs: Any = job_service_pb2_grpc.JobServiceStub(grpc.aio.insecure_channel(target))
        self._metadata = (("sonic-tenant", tenant),)
        self._spec = jobs_pb2.JobSpec(portrait_sha256=portrait, voice_sha256=voice)
        self.submitted_s: dict[str, float] = {}

    async def upload(self, data: bytes, sha256: str) -> None:
        header = artifacts_pb2.UploadHeader(sha256=sha256, size_bytes=len(data))
        parts = [pb.UploadArtifactRequest(header=header), pb.UploadArtifactRequest(chunk=data)]
        await self.jobs.UploadArtifact(iter(parts), metadata=self._metadata)

    def _request(self) -> pb.SubmitJobRequest:
        return pb.SubmitJobRequest(idempotency_key=uuid.uuid4().hex, spec=self._spec)

    async def one(self) -> None:
        """Run a job and see it succeed."""
        began_s = time.monotonic()
        job = await self._client.run(self._request())
        self.submitted_s[job.job_id] = began_s
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job

    async def one_by_calls(self) -> None:
        """Submit a job with one call, and see it succeed with another."""
        began_s = time.monotonic()
        job = (await self.jobs.SubmitJob(self._request(), metadata=self._metadata)).job
        self.submitted_s[job.job_id] = began_s
        watch = pb.WatchJobRequest(job_id=job.job_id, after_revision=job.revision)
        call = self.jobs.WatchJob(watch, metadata=self._metadata)
        while job.state not in FINAL:
            job = (await call.read()).job
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job
        await call.read()

    async def batch(self, size: int) -> None:
        began_s = time.monotonic()
        request = pb.SubmitBatchRequest(items=[self._request() for _ in range(size)])
        answer = await self.jobs.SubmitBatch(request, metadata=self._metadata)
        self.submitted_s |= {item.job.job_id: began_s for item in answer.items}

    async def all_ended(self) -> None:
        wanted = pb.ListJobsRequest(page_size=1, states=LIVE)
        while (await self.jobs.ListJobs(wanted, metadata=self._metadata)).jobs:
            await asyncio.sleep(0.05)  # to look takes the hub's time from the jobs


async def run(given: argparse.Namespace) -> dict[str, Any]:
    caller = Caller(given.hub, given.portrait, given.voice)
    one = caller.one_by_calls if given.by_calls else caller.one
    if given.trickle:
        return pace.told(given.rate, await pace.steady_ms(one, given.rate, given.trickle))
    await pace.saturated_per_s(one, 4, 1.0)  # warm
    if given.batches:
        began_s = time.monotonic()
        for _ in range(given.batches):
            await caller.batch(given.batch_size)
        await caller.all_ended()
        per_s = given.batches * given.batch_size / (time.monotonic() - began_s)
        return pace.told(per_s, [], submitted_s=caller.submitted_s)
    per_s = await pace.saturated_per_s(one, given.in_flight, given.seconds)
    await asyncio.sleep(0.5)
    caller.submitted_s.clear()
    latencies = await pace.steady_ms(one, given.rate, given.seconds)
    return pace.told(per_s, latencies, submitted_s=caller.submitted_s)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--hub", required=True)
    options.add_argument("--portrait", required=True, help="hash of an uploaded portrait")
    options.add_argument("--voice", required=True, help="hash of an uploaded voice")
    options.add_argument("--in-flight", type=int, default=16)
    options.add_argument("--rate", type=float, default=100.0, help="jobs a second at which latency is taken")
    options.add_argument("--seconds", type=float, default=5.0, help="of each of the two measurements")
    options.add_argument("--trickle", type=float, default=0, help="only offer jobs at that rate, for so many seconds")
    options.add_argument("--by-calls", action="store_true", help="two calls for each job, instead of one for all")
    options.add_argument("--batches", type=int, default=0, help="submit so many batches instead, and wait for them")
    options.add_argument("--batch-size", type=int, default=1000)
    print(json.dumps(asyncio.run(run(options.parse_args()))))


if __name__ == "__main__":
    main()
