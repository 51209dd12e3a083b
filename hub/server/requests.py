"""Requests that are no message are the caller's mistake: gRPC would call them the hub's, with a traceback for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError

from hub import exceptions
from hub.server.callers import Context
from sonic.parameters import Problem


class Unreadable:
    """Stands for a request that could not be read; it names nothing."""

    def __getattr__(self, name: str) -> str:
        return ""


_UNREADABLE = Unreadable()


def careful(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """The deserializer, which returns an Unreadable where it would fail."""
    if deserializer is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return _UNREADABLE

    return read


def checked(inner: Any, streams_in: bool) -> Any:
    """The handler, which refuses an Unreadable, and text that no database can hold.

    Raises InvalidRequest, when it is called or from its stream.
    """

    def of_one(request: Any, context: Context) -> Any:
        return inner(_readable(request), context)

    def of_stream(requests: AsyncIterator[Any], context: Context) -> Any:
        return inner(_all_readable(requests), context)

    return of_stream if streams_in else of_one


async def _all_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _readable(request: Any) -> Any:
    if request is _UNREADABLE:
        raise exceptions.InvalidRequest([Problem("request", "is no message of this call")])
    for field, value in request.ListFields():
        if isinstance(value, str) and "\0" in value:  # which PostgreSQL cannot even look for
            raise exceptions.InvalidRequest([Problem(field.name, "holds a character with the code 0")])
    return request
