"""From the status of a failed call, with its google.rpc details, to the exception that it means."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from sonic import exceptions
from sonic.parameters import Problem, told
from sonic.v1 import job_service_pb2

_NAMES = {"sonic-tenant": "tenant"}  # what callers call a field of the wire
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_BY_CODE: dict[grpc.StatusCode, type[exceptions.HubError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: exceptions.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: exceptions.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: exceptions.KeyReused,
    grpc.StatusCode.FAILED_PRECONDITION: exceptions.OutOfSequence,
    grpc.StatusCode.UNAUTHENTICATED: exceptions.NotIdentified,
    grpc.StatusCode.PERMISSION_DENIED: exceptions.NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: exceptions.LimitReached,
    grpc.StatusCode.DATA_LOSS: exceptions.BytesDiffer,
    grpc.StatusCode.UNAVAILABLE: exceptions.HubUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: exceptions.HubUnreachable,
    grpc.StatusCode.CANCELLED: exceptions.HubUnreachable,
}


def to_exception(error: grpc.aio.AioRpcError, target: str) -> exceptions.HubError:
    """The error that a failed call to `target` means, with what its google.rpc details say."""
    kind = _BY_CODE.get(error.code(), exceptions.HubFailed)
    message = error.details() or ""
    if kind is exceptions.HubUnreachable:
        why = message.rpartition(": ")[2].rstrip("]")  # the first parts are gRPC's own affairs
        message = f"the hub at {target} cannot be reached ({why}); is it running, and is the address right?"
    elif kind is exceptions.HubFailed:
        message = f"the hub at {target} failed with {error.code().name}: {message}"
    reason, problems, retry_after_s = "", [], None
    for detail in _details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            reason = detail.reason
        elif isinstance(detail, error_details_pb2.BadRequest):
            problems = [
                Problem(_NAMES.get(item.field, item.field), item.description) for item in detail.field_violations
            ]
            message = told(problems)
        elif isinstance(detail, error_details_pb2.RetryInfo):
            retry_after_s = detail.retry_delay.ToNanoseconds() / 1e9
    return kind(message, reason=reason, problems=problems, retry_after_s=retry_after_s)


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether nobody knows what the hub has answered: a write that fails after the answer takes its place.

    See https://github.com/grpc/grpc/issues/36066; the same is said of a line that is cut while something is written.
    """
    return error.code() is grpc.StatusCode.INTERNAL and "Internal error from Core" in (error.details() or "")


def of_item(refused: job_service_pb2.RefusedJob) -> exceptions.HubError:
    """The error that one of many items has met."""
    kind = _BY_CODE.get(_CODES[refused.error.code], exceptions.HubFailed)
    problems = [Problem(problem.field, problem.description) for problem in refused.error.problems]
    message = told(problems) if problems else refused.error.message
    retry_after_s = refused.retry_after_seconds or None
    return kind(message, reason=refused.error.reason, problems=problems, retry_after_s=retry_after_s)


def _details(error: grpc.aio.AioRpcError) -> list[object]:
    try:
        return _unpacked(rpc_status.from_call(error))
    except (ValueError, DecodeError):  # the details contradict the status, or are none: some proxy's, not the hub's
        return []


def _unpacked(status: Any) -> list[object]:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    packed = status.details if status else ()
    return [kind.FromString(item.value) for item in packed for kind in kinds if item.Is(kind.DESCRIPTOR)]
