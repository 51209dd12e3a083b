"""Thousands of videos from one manifest: uploaded, submitted in bulk, waited for and fetched, so many at a time.

Nothing is remembered between runs but the videos themselves. The idempotency key of a row is made from its content, so
a rerun is answered with the jobs that exist, fetches what is missing, and tries again what failed by no fault of a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonic import deadlines, exceptions, files, transfers
from sonic.client import AsyncSonicClient, callers_name, region_rules, timestamp, wire_parameters
from sonic.manifest import BadRow, Row
from sonic.parameters import Problem
from sonic.v1 import job_service_pb2, jobs_pb2

CHUNK_ROWS = 200
UPLOADS = 8  # at a time
FOLLOWED = 32  # jobs waited for, and videos fetched, at a time
AHEAD = 2000  # jobs submitted and not yet ended: a huge manifest does not fill the hub's queue
MAX_TRIES = 20  # runs that may try the same row again
_STEM_BYTES = 105  # of each input, in the name of a video: that of two is within files.NAME_BYTES


@dataclass(frozen=True)
class Failure:
    """Why a row has no video."""

    line: int
    field: str
    message: str
    job_id: str = ""


@dataclass
class Summary:
    """What has become of the rows so far."""

    rows: int = 0
    succeeded: int = 0  # fetched by this run
    skipped: int = 0  # their video was already there
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)  # one for each problem of a failed row

    @property
    def done(self) -> int:
        return self.succeeded + self.skipped + self.failed


@dataclass
class _Wanted:
    row: Row
    spec: jobs_pb2.JobSpec
    key: str
    output: Path
    tries: int = 1

    @property
    def request(self) -> job_service_pb2.SubmitJobRequest:
        key = self.key if self.tries == 1 else f"{self.key}-{self.tries}"
        return job_service_pb2.SubmitJobRequest(spec=self.spec, idempotency_key=key)


class Batch:
    """One run over the rows of a manifest; `folder` takes the videos of rows that name no output."""

    def __init__(
        self,
        client: AsyncSonicClient,
        folder: Path,
        inputs: Container[Path],
        report: Callable[[Summary, tuple[Failure, ...]], None],
    ) -> None:
        """`inputs` are the files that no video may replace, resolved.

        `report` is called when rows have been read and when one is done, with why it has no video, if it has none.
        """
        self._client = client
        self._folder = folder
        self._inputs = inputs
        self._report = report
        self._hashes: dict[Path, str] = {}
        self._sending: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._outputs: dict[str, int] = {}
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._followed = asyncio.Semaphore(FOLLOWED)
        self._ahead = asyncio.Semaphore(AHEAD)
        self.summary = Summary()

    async def run(self, rows: Iterator[Row | BadRow]) -> Summary:
        """Work until every row has ended. Raises HubError when the hub stays away, BadManifest."""
        try:
            async with asyncio.TaskGroup() as group:
                while chunk := await asyncio.to_thread(lambda: list(itertools.islice(rows, CHUNK_ROWS))):
                    self.summary.rows += len(chunk)
                    self._report(self.summary, ())
                    for wanted, job in await self._submit(await self._prepare(chunk)):
                        await self._ahead.acquire()
                        group.create_task(self._follow(wanted, job), name=f"job {job.job_id}")
        except* exceptions.SonicError as errors:
            raise _first(errors) from errors
        self.summary.failures.sort(key=lambda failure: failure.line)
        return self.summary

    async def _prepare(self, rows: list[Row | BadRow]) -> list[_Wanted]:
        """Upload what the rows need; those that cannot be submitted are reported."""
        found = await asyncio.gather(*(self._prepare_row(row) for row in rows))
        return [wanted for wanted in found if wanted]

    async def _prepare_row(self, row: Row | BadRow) -> _Wanted | None:
        if isinstance(row, BadRow):
            self._fail(row.line, row.problems)
            return None
        try:
            portrait, voice = await self._uploaded(row.portrait), await self._uploaded(row.voice)
        except (exceptions.FileTrouble, exceptions.InvalidRequest, exceptions.LimitReached) as error:
            self._fail(row.line, [Problem("file", str(error))])
            return None
        wanted = _wanted(row, portrait, voice, self._folder)
        if problem := self._output_problem(wanted):
            self._fail(row.line, [Problem("output", problem)])
            return None
        return wanted

    def _output_problem(self, wanted: _Wanted) -> str | None:
        earlier = self._outputs.setdefault(os.path.realpath(wanted.output), wanted.row.line)
        if earlier != wanted.row.line:
            return f"is {wanted.output}, as in line {earlier}; name another"
        return files.output_problem(wanted.output, self._inputs)

    async def _uploaded(self, path: Path) -> str:
        """The hash of a file that the hub holds; however many rows name it, it is sent once."""
        async with self._sending[path]:
            if path not in self._hashes:
                async with self._uploads:
                    self._hashes[path] = (await self._client.upload(path)).sha256
        return self._hashes[path]

    async def _submit(self, chunk: list[_Wanted]) -> list[tuple[_Wanted, jobs_pb2.Job]]:
        """The jobs of the rows; those that failed in an earlier run are submitted anew."""
        accepted: list[tuple[_Wanted, jobs_pb2.Job]] = []
        while chunk:
            again: list[_Wanted] = []
            for wanted, answer in zip(chunk, await self._answers(chunk), strict=True):
                if isinstance(answer, job_service_pb2.SubmitError):
                    problems = [Problem(callers_name(p.field), p.description) for p in answer.problems]
                    self._fail(wanted.row.line, problems or [Problem(answer.reason.lower(), answer.message)])
                elif _worth_another_try(answer) and wanted.tries < MAX_TRIES:
                    wanted.tries += 1
                    again.append(wanted)
                else:
                    accepted.append((wanted, answer))
            chunk = again
        return accepted

    async def _answers(self, chunk: list[_Wanted]) -> list[jobs_pb2.Job | job_service_pb2.SubmitError]:
        while True:
            try:
                return await self._client.submit_batch([wanted.request for wanted in chunk])
            except exceptions.LimitReached as error:
                if error.retry_after_s is None:
                    raise
                await asyncio.sleep(error.retry_after_s)

    async def _follow(self, wanted: _Wanted, job: jobs_pb2.Job) -> None:
        try:
            async with self._followed:
                await self._finish(wanted, job)
        except exceptions.FileTrouble as error:
            self._fail(wanted.row.line, [Problem("output", str(error))], job.job_id)
        except (exceptions.JobEnded, exceptions.BytesDiffer, exceptions.NotFound) as error:
            self._fail(wanted.row.line, [Problem("job", str(error).removeprefix("job "))], job.job_id)
        finally:
            self._ahead.release()

    async def _finish(self, wanted: _Wanted, job: jobs_pb2.Job) -> None:
        if job.state != jobs_pb2.JOB_STATE_SUCCEEDED:  # otherwise an earlier run's
            job = await self._client.wait(job.job_id)
        if await asyncio.to_thread(_holds, wanted.output, job):
            self.summary.skipped += 1
        else:
            await self._client.download(job, wanted.output)
            self.summary.succeeded += 1
        self._report(self.summary, ())

    def _fail(self, line: int, problems: list[Problem] | tuple[Problem, ...], job_id: str = "") -> None:
        failures = tuple(Failure(line, problem.field, problem.description, job_id) for problem in problems)
        self.summary.failed += 1
        self.summary.failures += failures
        self._report(self.summary, failures)


def _wanted(row: Row, portrait: str, voice: str, folder: Path) -> _Wanted:
    given = dict(row.wanted)
    chosen = {name: given.pop(name) for name in ("engine", "model_version", "priority") if name in given}
    regions = region_rules(*(given.pop(f"{rule}_regions", ()) for rule in ("prefer", "require", "avoid")))
    deadline = given.pop("deadline", "")
    spec = jobs_pb2.JobSpec(
        portrait_sha256=portrait,
        voice_sha256=voice,
        parameters=wire_parameters(given, chosen.get("engine", "")),
        regions=regions,
        deadline=timestamp(deadlines.parse_time(deadline)) if deadline else None,
        **chosen,
    )
    key = _key(portrait, voice, row.wanted)
    output = row.output or folder / f"{_stem(row.portrait)}-{_stem(row.voice)}-{key[-8:]}.mp4"
    return _Wanted(row, spec, key, output)


def _stem(path: Path) -> str:
    """As much of a file's name as has room in another, cut between two characters."""
    return os.fsencode(path.stem)[:_STEM_BYTES].decode(errors="ignore")


def _key(portrait: str, voice: str, wanted: Mapping[str, Any]) -> str:
    """The same content has the same key in every run."""
    content = json.dumps([portrait, voice, dict(wanted)], sort_keys=True)
    return f"batch-{hashlib.sha256(content.encode()).hexdigest()}"


def _worth_another_try(job: jobs_pb2.Job) -> bool:
    """It ended in an earlier run without a video, though not by the caller's input."""
    failed = job.state == jobs_pb2.JOB_STATE_FAILED and job.failure.fault != jobs_pb2.FAULT_KIND_BAD_INPUT
    return failed or job.state == jobs_pb2.JOB_STATE_CANCELLED


def _holds(output: Path, job: jobs_pb2.Job) -> bool:
    with contextlib.suppress(OSError, exceptions.FileTrouble):
        return output.stat().st_size == job.video.size_bytes and transfers.sha256_of(output) == job.video.sha256
    return False


def _first(errors: BaseExceptionGroup[exceptions.SonicError]) -> exceptions.SonicError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
