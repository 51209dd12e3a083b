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
from hub.server import access, audit, callers, requests
from hub.server.admittance import Admittance, name_of
from hub.server.callers import Call, Context
from hub.server.gate import Gate
from sonic.parameters import Problem

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
    """Wraps every handler of the server: nothing runs before the gate has let the call in."""

    def __init__(self, gate: Gate, admittance: Admittance) -> None:
        self._gate = gate
        self._admittance = admittance

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        read = requests.careful(handler.request_deserializer)
        if handler.response_streaming:
            inner = requests.checked(handler.stream_stream or handler.unary_stream, handler.request_streaming)
            make = grpc.stream_stream_rpc_method_handler
            if not handler.request_streaming:
                make = grpc.unary_stream_rpc_method_handler
            return make(self._streaming(method, inner), read, handler.response_serializer)
        inner = requests.checked(handler.stream_unary or handler.unary_unary, handler.request_streaming)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._uploading(method, inner), read, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(self._single(method, inner), read, handler.response_serializer)

    async def _admitted(self, method: str, context: Context) -> Call:
        """The call, bound to this task. A call that is not for its caller counts like any other. Raises Refusal."""
        try:
            admitted = await self._gate.admit(method, context)
        except exceptions.Refusal:
            with self._admittance.passing(callers.who() if callers.who() != callers.NOBODY else ""):
                raise
        callers.enter(admitted)
        return admitted

    def _single(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                admitted = await self._admitted(method, context)
                with self._admittance.passing(name_of(admitted, context)):
                    answer = await inner(request, context)
            except Exception as error:
                await _abort(method, error, context, request)
            _keep(method, request, context, "done")
            return answer

        return call

    def _uploading(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                admitted = await self._admitted(method, context)
                with self._admittance.passing(name_of(admitted, context)), self._gate.open(admitted, context):
                    return await inner(request, context)
            except Exception as error:
                await _abort(method, error, context)

        return call

    def _streaming(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                admitted = await self._admitted(method, context)
                with self._admittance.passing(name_of(admitted, context)), self._gate.open(admitted, context):
                    answering = inner(request, context)
                    if isinstance(answering, Awaitable):  # a handler that writes by itself
                        await answering
                        return
                    async for response in answering:
                        yield response
            except Exception as error:
                await _abort(method, error, context)

        return call


def _keep(method: str, request: Any, context: Context, outcome: str) -> None:
    """Note what an operator does in the audit log."""
    rule = access.rule_of(method)
    if rule is not None and rule.audited is not None:
        subject, *more = (str(getattr(request, name)) for name in rule.audited)
        detail = dict(zip(rule.audited[1:], more, strict=True))
        audit.record(context, method.rpartition("/")[2], subject, outcome, **detail)


async def _abort(method: str, error: Exception, context: Context, request: Any = None) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError | grpc.RpcError):
        raise error
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
        _log.error("the store failed a call", extra={"method": method, "error": str(error.__cause__ or error)})
        error = exceptions.NotNow("the hub's store cannot be reached at the moment", retry_after_s=5.0)
    if isinstance(error, sa.exc.DataError):
        error = exceptions.InvalidRequest([Problem("request", "holds a value that cannot be stored")])
    if isinstance(error, exceptions.Refusal):
        status = status_of(error)
        known = callers.who() != callers.NOBODY and not isinstance(error, exceptions.TooManyCalls)
        if request is not None and known:
            _keep(method, request, context, f"refused: {error.reason}")
        await context.abort(error.code, error.message, ((_DETAILS_KEY, status.SerializeToString()),))
    if isinstance(error, NotImplementedError):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered")
    number = uuid.uuid4().hex[:12]
    _log.exception("a call failed", extra={"method": method, "error_id": number}, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"the hub failed; its log has the details under {number}")
