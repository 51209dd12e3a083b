"""Around every call: a refusal becomes a rich gRPC error, and anything unforeseen one with a number to look up."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
import sqlalchemy as sa
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hub import exceptions
from hub.server.admittance import Admittance
from hub.server.callers import Context

_log = logging.getLogger("hub.rpc")
_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "sonic-fleet"


def status_of(refusal: exceptions.Refusal) -> status_pb2.Status:
    """The google.rpc.Status of a refusal: ErrorInfo always, and what else fits."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain=_DOMAIN)]
    if isinstance(refusal, exceptions.InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.description)
            for problem in refusal.problems
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(refusal, exceptions.LimitReached):
        violation = error_details_pb2.QuotaFailure.Violation(subject=refusal.subject, description=refusal.message)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if refusal.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(refusal.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(refusal.code.name), message=refusal.message, details=packed)


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server. `caller_of` tells for whom a call is counted."""

    def __init__(self, admittance: Admittance, caller_of: Callable[[Context], str]) -> None:
        self._admittance = admittance
        self._caller_of = caller_of

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream
            make = grpc.stream_stream_rpc_method_handler
            if not handler.request_streaming:
                make = grpc.unary_stream_rpc_method_handler
            return make(self._streaming(method, inner), handler.request_deserializer, handler.response_serializer)
        inner = handler.stream_unary or handler.unary_unary
        make = grpc.stream_unary_rpc_method_handler
        if not handler.request_streaming:
            make = grpc.unary_unary_rpc_method_handler
        return make(self._single(method, inner), handler.request_deserializer, handler.response_serializer)

    def _single(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                with self._admittance.passing(self._caller_of(context)):
                    return await inner(request, context)
            except Exception as error:
                await _abort(method, error, context)

        return call

    def _streaming(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                with self._admittance.passing(self._caller_of(context)):
                    async for response in inner(request, context):
                        yield response
            except Exception as error:
                await _abort(method, error, context)

        return call


async def _abort(method: str, error: Exception, context: Context) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError | grpc.RpcError):
        raise error
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
        _log.error("the store failed a call", extra={"method": method, "error": str(error.__cause__ or error)})
        error = exceptions.NotNow("the hub's store cannot be reached at the moment", retry_after_s=5.0)
    if isinstance(error, exceptions.Refusal):
        status = status_of(error)
        await context.abort(error.code, error.message, ((_DETAILS_KEY, status.SerializeToString()),))
    number = uuid.uuid4().hex[:12]
    _log.exception("a call failed", extra={"method": method, "error_id": number}, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"the hub failed; its log has the details under {number}")
