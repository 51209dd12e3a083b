"""The way of the samples: taken at intervals, kept in the spool, sent in the session, forgotten when acknowledged."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from agent.clock import Clock
from agent.metrics import Metrics
from agent.spool import Spool, Unreadable
from sonic import metrics
from sonic.v1 import fleet_service_pb2 as pb

DEFAULT_INTERVAL_S = 15.0
MAX_IN_FLIGHT = 64  # batches sent and not acknowledged
_log = logging.getLogger("agent.telemetry")


class Telemetry:
    """Samples an agent's metrics; sends the oldest batch first, and new ones in between where the hub allows it."""

    def __init__(self, numbers: Metrics, spool: Spool, clock: Clock) -> None:
        self._metrics = numbers
        self._spool = spool
        self._clock = clock
        self._lock = asyncio.Lock()  # the spool is written in a thread
        self._wake = asyncio.Event()
        self._due = asyncio.Event()
        self._empty = asyncio.Event()  # nothing waits
        self._interval_s = DEFAULT_INTERVAL_S
        self._send: Callable[[pb.SessionRequest], None] | None = None
        self._late_samples = False
        self._acks: list[int] = []
        self._leaving = False
        self._next = 0  # what is sent next in this session
        self._in_flight: set[int] = set()
        self._declared: dict[int, int] = {}  # table -> how many of its messages were sent in this session

    def opened(self, welcome: pb.Welcome, send: Callable[[pb.SessionRequest], None]) -> None:
        """A session stands; everything that is not acknowledged is sent in it."""
        if welcome.sampling_interval_seconds != self._interval_s:
            self._interval_s = welcome.sampling_interval_seconds
            self._due.set()
        self._late_samples = welcome.late_samples
        self._send, self._next = send, 0
        self._in_flight.clear()
        self._declared.clear()
        self._wake.set()

    def closed(self) -> None:
        self._send = None

    def acknowledged(self, sequences: list[int]) -> None:
        self._acks += sequences
        self._wake.set()

    async def sample_at_intervals(self) -> None:
        """Until the last is taken; the first moment is random, so that a fleet does not sample in step."""
        wait_s = random.uniform(0, self._interval_s)  # noqa: S311 - no secret
        while True:
            if await self._interval_changed(wait_s):
                wait_s = random.uniform(0, self._interval_s)  # noqa: S311 - no secret
                continue
            if self._leaving:
                return
            started_s = time.monotonic()
            await self.sample()
            wait_s = max(self._interval_s - (time.monotonic() - started_s), 0)

    async def send_what_waits(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._lock:
                acks, self._acks = self._acks, []
                self._in_flight.difference_update(acks)
                try:
                    self._spool.acknowledge(acks)
                except OSError as error:  # what is sent again is known by its number
                    _log.error("what the hub has is not noted", extra={"why": str(error)})
                self._say_what_may_be_said()
                if self._spool.first == self._spool.end:
                    self._empty.set()

    async def sample(self) -> None:
        """Take all values as they are now."""
        values = metrics.snapshot(self._metrics.registry)
        async with self._lock:
            try:
                lost = await asyncio.to_thread(self._spool.append, values, self._clock.now_ns() // 1_000_000)
            except OSError as error:
                _log.error("samples not kept", extra={"why": str(error)})
                lost = {"disk": len(values)}
            self._metrics.spool(self._spool.size_bytes, self._spool.max_bytes, lost)
            self._empty.clear()
        self._wake.set()

    async def flush(self) -> None:
        """Take no more samples. If there is a session: take a last one, and wait until nothing waits."""
        self._leaving = True
        if self._send is not None and self._interval_s:
            await self.sample()
            await self._empty.wait()

    async def _interval_changed(self, wait_s: float) -> bool:
        """Wait so long, or until there is another interval; without one, for the next."""
        try:
            async with asyncio.timeout(wait_s if self._interval_s else None):
                await self._due.wait()
        except TimeoutError:
            return False
        self._due.clear()
        return True

    def _say_what_may_be_said(self) -> None:
        self._next = max(self._next, self._spool.first)
        while self._send and self._next < self._spool.end and len(self._in_flight) < MAX_IN_FLIGHT:
            self._say(self._next)
            self._next += 1
        newest = self._spool.end - 1
        if self._late_samples and self._next <= newest:
            self._say(newest)

    def _say(self, sequence: int) -> None:
        if not self._send or sequence in self._in_flight:
            return
        try:
            table_id, declarations = self._spool.tables(sequence)
            batch = self._spool.batch(sequence)
        except Unreadable as error:  # nobody will ever have it
            _log.error("samples are lost", extra={"why": str(error)})
            self.acknowledged([sequence])
            return
        for declaration in declarations[self._declared.get(table_id, 0) :]:
            self._send(declaration)
        self._declared[table_id] = max(self._declared.get(table_id, 0), len(declarations))
        self._send(batch)
        self._in_flight.add(sequence)
