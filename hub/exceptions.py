"""Why the hub refuses a call, one class per situation; the docstring is the default message.

Refusal
├── InvalidRequest      INVALID_ARGUMENT     a violation for each field
├── NotFound            NOT_FOUND            also for whatever belongs to another tenant
├── KeyReused           ALREADY_EXISTS
├── OutOfSequence       FAILED_PRECONDITION
├── NoGameDay           FAILED_PRECONDITION
├── NotIdentified       UNAUTHENTICATED
├── NotAllowed          PERMISSION_DENIED
├── TenantSuspended     PERMISSION_DENIED
├── AttemptOver         PERMISSION_DENIED    to a node
├── CertificateVoid     PERMISSION_DENIED    to a node
├── NameTaken           ALREADY_EXISTS
├── LastOperator        FAILED_PRECONDITION
├── LimitReached        RESOURCE_EXHAUSTED   with the limit, and when to try again
│   └── TooManyCalls    RESOURCE_EXHAUSTED   the same call is welcome later
├── BytesDiffer         DATA_LOSS
└── NotNow              UNAVAILABLE          with when to try again
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import grpc

from hub.core.roles import Caller
from sonic.parameters import Problem


class Refusal(Exception):
    """The call was refused."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    caller: Caller | None = None  # of a credential that is good and lets nobody in

    def __init__(self, message: str = "", retry_after_s: float | None = None) -> None:
        self.message = message or (type(self).__doc__ or "")
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        """Stable, for programs: the class name in UPPER_SNAKE_CASE."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).upper()


class InvalidRequest(Refusal):
    """The request cannot be carried out as it is."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.field} {problem.description}" for problem in problems))


class NotFound(Refusal):
    """There is no such thing."""

    code = grpc.StatusCode.NOT_FOUND


class KeyReused(Refusal):
    """The idempotency key belongs to an earlier job with another spec."""

    code = grpc.StatusCode.ALREADY_EXISTS


class OutOfSequence(Refusal):
    """The call does not fit what has gone before."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NoGameDay(Refusal):
    """The node takes part in no game day now."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NotIdentified(Refusal):
    """The call does not say whose it is, or its credential is not good."""

    code = grpc.StatusCode.UNAUTHENTICATED


class NotAllowed(Refusal):
    """The caller is known, and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class TenantSuspended(Refusal):
    """The operator has suspended the tenant."""

    code = grpc.StatusCode.PERMISSION_DENIED


class AttemptOver(Refusal):
    """The job has ended, or its files are another attempt's: report the result, the answer says what holds."""

    code = grpc.StatusCode.PERMISSION_DENIED


class CertificateVoid(Refusal):
    """The node was enrolled anew; the certificate is that of the box before."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NameTaken(Refusal):
    """There is a tenant of that name already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class LastOperator(Refusal):
    """It is the last key of an operator that holds; without it nobody could make another one."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class LimitReached(Refusal):
    """A limit has been reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, subject: str, limit: str, retry_after_s: float | None = None) -> None:
        self.subject = subject
        super().__init__(f"{subject}: {limit}", retry_after_s)


class TooManyCalls(LimitReached):
    """The caller makes more calls, or keeps more of them open, than one caller may."""


class BytesDiffer(Refusal):
    """The bytes received are not those of the hash; nothing was stored, send them again from the start."""

    code = grpc.StatusCode.DATA_LOSS


class NotNow(Refusal):
    """The hub cannot do this at the moment."""

    code = grpc.StatusCode.UNAVAILABLE
