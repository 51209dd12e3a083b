"""When to try a call again: every call to the hub may be repeated, so whatever may pass is waited for."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from sonic import exceptions, statuses

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
LISTEN_S = 1.0  # before something is written to a hub whose answer was lost
TOO_MANY_CALLS = "TOO_MANY_CALLS"  # the hub's reason; it says when to come back
SAID_AGAIN_AFTER_S = 10.0
_log = logging.getLogger(__name__)
_said: dict[tuple[str, grpc.StatusCode], float] = {}  # when a hub's trouble was last said; many calls meet it at once
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Patience:
    """How long somebody goes on trying, from the first failure on; whatever moves forward makes it whole again.

    `elsewhere` is called when the hub does not answer, so that the next try may be made at another one. `trouble` tells
    of what no other try would change.
    """

    def __init__(
        self,
        target: str,
        seconds: float,
        elsewhere: Callable[[], None] = lambda: None,
        trouble: Callable[[grpc.aio.AioRpcError], Awaitable[str]] | None = None,
    ) -> None:
        self._target = target
        self._seconds = seconds
        self._elsewhere = elsewhere
        self._trouble = trouble
        self._listens = False
        self._tries = 0
        self._until = math.inf

    def renew(self) -> None:
        self._tries = 0

    async def pause(self, error: grpc.aio.AioRpcError, also: tuple[grpc.StatusCode, ...] = ()) -> None:
        """Wait before the next try. Raises HubError when there is to be none."""
        failure = statuses.to_exception(error, self._target)
        self._listens = statuses.is_lost(error)
        if error.code() not in (*_PASSING, *also) and not self._listens and failure.reason != TOO_MANY_CALLS:
            raise failure from error
        if not self._tries:  # however long all was well before
            self._until = time.monotonic() + self._seconds
        if self._trouble and not self._tries and (why := await self._trouble(error)):
            raise exceptions.HubUnreachable(why) from error
        longest = min(FIRST_PAUSE_S * 2**self._tries, LONGEST_PAUSE_S)
        pause_s = max(random.uniform(longest / 2, longest), failure.retry_after_s or 0.0)  # noqa: S311 - no secret
        if time.monotonic() + pause_s > self._until:
            raise failure from error
        now, trouble = time.monotonic(), (self._target, error.code())
        if not self._tries and now >= _said.get(trouble, -math.inf) + SAID_AGAIN_AFTER_S:
            _said[trouble] = now
            _log.warning("%s Trying again for up to %.0f s.", failure.message, self._seconds)
        self._tries += 1
        if error.code() in _PASSING:
            self._elsewhere()
        await asyncio.sleep(pause_s)

    async def listen(self, call: grpc.aio.Call) -> None:
        """Where the answer to the call before was lost, let this one be answered before anything more is written."""
        until = time.monotonic() + LISTEN_S
        while self._listens and not call.done() and time.monotonic() < until:  # noqa: ASYNC110 - a call has no event
            await asyncio.sleep(0.01)
