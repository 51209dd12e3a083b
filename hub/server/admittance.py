"""How much one caller may ask of the hub: calls in a second, and calls that are open at a time.

A caller is a name that somebody else has found out: a credential, a node, or an address. An empty one is not counted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hub import exceptions
from hub.core.tenants import Rate
from hub.server.callers import Call, Context
from hub.server.peers import address_of, names_of

BURST_S = 10.0  # so many seconds' worth of calls may come at once
OPEN_RETRY_S = 5.0  # nobody knows when a call of the caller will end
MOST_KNOWN = 10_000  # callers that are remembered although none of their calls is open


@dataclass
class _Caller:
    rate: Rate
    open_calls: int = 0


class Admittance:
    """Lets calls in, or says when to come back."""

    def __init__(self, calls_per_s: float, open_calls: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls_per_s = calls_per_s
        self._open_calls = open_calls
        self._clock = clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()  # who called last is last

    @contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """A call of a caller, for as long as it is open. Raises TooManyCalls."""
        if not name:
            yield
            return
        caller = self._caller(name)
        if caller.open_calls >= self._open_calls:
            limit = f"{caller.open_calls} are open; {self._open_calls} may be at a time"
            raise exceptions.TooManyCalls("calls of this caller", limit, OPEN_RETRY_S)
        if wait_s := caller.rate.take(1, self._clock()):
            limit = f"{self._calls_per_s:g} a second may be made"
            raise exceptions.TooManyCalls("calls of this caller", limit, wait_s)
        caller.open_calls += 1
        try:
            yield
        finally:
            caller.open_calls -= 1

    def _caller(self, name: str) -> _Caller:
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = _Caller(self._full())
            self._forget()
        self._callers.move_to_end(name)
        return caller

    def _full(self) -> Rate:
        burst = self._calls_per_s * BURST_S
        return Rate(self._calls_per_s * 60, burst, self._clock(), most=burst)

    def _forget(self) -> None:
        """Who called longest ago and has nothing open; whoever has is bounded by the calls that the hub takes."""
        for name in list(self._callers)[: max(len(self._callers) - MOST_KNOWN, 0)]:
            if not self._callers[name].open_calls:
                del self._callers[name]


def name_of(call: Call, context: Context) -> str:
    """For whom a call is counted: a node, a credential, else an address; for nobody at a hub that is insecure."""
    if call.node_id:
        return f"node {call.node_id}"
    if call.caller:
        return f"{call.caller.role} {call.caller.tenant} {call.caller.who}"
    return "" if names_of(context) is None else address_of(context)
