"""Everything that a user may have to deal with, one class per situation; the docstring is the default message.

SonicError
├── BadSettings             a configuration file, variable or flag that cannot be used
├── FileTrouble             a local file cannot be read or written
├── BadManifest             a manifest that cannot be read as a whole
├── ExtraMissing            a part of the program is not installed
├── Interrupted             the user stopped the command
├── BadRules                a file of rules, or for Alertmanager, that cannot be read or that Mimir refuses
├── MimirUnreachable        no answer from Mimir, or one that it cannot serve now
├── MimirRefused            Mimir does not allow it
├── HubError
│   ├── InvalidRequest      INVALID_ARGUMENT     .problems, a field and a description each
│   ├── NotFound            NOT_FOUND
│   ├── KeyReused           ALREADY_EXISTS
│   ├── OutOfSequence       FAILED_PRECONDITION
│   ├── NotIdentified       UNAUTHENTICATED
│   ├── NotAllowed          PERMISSION_DENIED
│   ├── LimitReached        RESOURCE_EXHAUSTED   .retry_after_s
│   ├── BytesDiffer         DATA_LOSS, or a download that does not match its hash
│   ├── HubUnreachable      UNAVAILABLE, DEADLINE_EXCEEDED, and a call that the hub broke off
│   └── HubFailed           anything else
├── JobUnfinished           there is no video yet
└── JobEnded
    ├── JobFailed           .job.failure says why
    └── JobCancelled
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from sonic.parameters import Problem
from sonic.v1 import jobs_pb2


class SonicError(Exception):
    """The command failed."""

    def __init__(self, message: str = "") -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "")
        super().__init__(self.message)


class BadSettings(SonicError):
    """A setting cannot be used."""


class FileTrouble(SonicError):
    """A file cannot be read or written."""


class BadManifest(SonicError):
    """The manifest cannot be read."""


class ExtraMissing(SonicError):
    """A part of the program is not installed."""


class Interrupted(SonicError):
    """Stopped."""


class BadRules(SonicError):
    """The rules cannot be used."""


class MimirUnreachable(SonicError):
    """Mimir cannot be reached."""


class MimirRefused(SonicError):
    """Mimir does not allow it."""


class HubError(SonicError):
    """The hub did not do what was asked."""

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        problems: Sequence[Problem] = (),
        retry_after_s: float | None = None,
    ) -> None:
        """`reason` is stable, for programs; `retry_after_s` is when a repeat may succeed, if the hub said so."""
        super().__init__(message)
        self.reason = reason
        self.problems = tuple(problems)
        self.retry_after_s = retry_after_s


class InvalidRequest(HubError):
    """The request cannot be carried out as it is."""


class NotFound(HubError):
    """There is no such thing."""


class KeyReused(HubError):
    """The idempotency key belongs to an earlier job with another spec."""


class OutOfSequence(HubError):
    """The call does not fit what has gone before."""


class NotIdentified(HubError):
    """The hub does not know who is calling."""


class NotAllowed(HubError):
    """The caller may not do this."""


class LimitReached(HubError):
    """A limit of the hub has been reached."""


class BytesDiffer(HubError):
    """The bytes are not those of their hash."""


class HubUnreachable(HubError):
    """The hub cannot be reached."""


class HubFailed(HubError):
    """The hub failed."""


class JobUnfinished(SonicError):
    """The job has not ended."""


class JobEnded(SonicError):
    """The job ended without a video."""

    def __init__(self, job: jobs_pb2.Job, message: str) -> None:
        self.job = job
        super().__init__(message)


class JobFailed(JobEnded):
    """The job failed."""


class JobCancelled(JobEnded):
    """The job was cancelled."""


def from_job(job: jobs_pb2.Job) -> JobEnded | None:
    """The error that an ended job means; None when it has a video or has not ended."""
    if job.state == jobs_pb2.JOB_STATE_CANCELLED:
        return JobCancelled(job, f"job {job.job_id} was cancelled")
    if job.state == jobs_pb2.JOB_STATE_FAILED:
        return JobFailed(job, f"job {job.job_id} failed: {job.failure.message} ({job.failure.reason})")
    return None
