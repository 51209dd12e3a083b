"""One tenant's way out: what the spool holds, in order, one request at a time, until the receiver has answered."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque

from hub.forward.answers import Answer, Verdict, judge
from hub.forward.config import ForwardConfig
from hub.forward.encoding import Encoder, Request
from hub.forward.sink import Sink
from hub.forward.spool import Spool
from hub.server import metrics

LINGER_S = 5.0  # how long samples may wait for more to share a request with
MAX_WINDOW_SAMPLES = 100_000
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
HOLD_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
_log = logging.getLogger("hub.forward")


class Sender:
    """Delivers what is in a spool. Nothing that happens to it concerns another tenant."""

    def __init__(self, tenant: str, spool: Spool, sink: Sink, config: ForwardConfig) -> None:
        self._tenant = tenant
        self._spool = spool
        self._sink = sink
        self._max_samples = config.max_samples
        self._limit = config.max_samples
        self._linger_s = min(LINGER_S, config.interval_s / 3)
        self._encoder = Encoder(2)
        self._more = asyncio.Event()
        self._oldest_ms: int | None = None  # of the samples that are being delivered
        self._held = ""  # the status with which the receiver refuses everything

    def wake(self) -> None:
        """There is more in the spool."""
        self._more.set()

    def lag_s(self) -> float:
        """Age of the oldest sample that was not delivered."""
        return max(time.time() - self._oldest_ms / 1000, 0) if self._oldest_ms is not None else 0.0

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._enough()
            while window := self._spool.window(MAX_WINDOW_SAMPLES):
                if window.batches:
                    self._oldest_ms = min(batch.at_unix_ms for batch in window.batches)
                    await self._deliver(deque(self._encoder.requests(window.batches, self._limit)))
                    self._oldest_ms = None
                self._spool.commit(window)
                if self._spool.waiting_samples < self._max_samples:
                    break

    async def _enough(self) -> None:
        """Wait for samples, and then a little for more of them."""
        while self._spool.empty:
            self._more.clear()
            await self._more.wait()
        if self._spool.waiting_samples < self._max_samples:
            await asyncio.sleep(self._linger_s)

    async def _deliver(self, requests: deque[Request]) -> None:
        while requests:
            if await self._settled(requests[0]):
                requests.popleft()
                continue
            left = [batch for request in requests for batch in request.batches]
            requests = deque(self._encoder.requests(left, self._limit))

    async def _settled(self, request: Request) -> bool:
        """Whether the receiver has answered for it; if not, what is left is to be encoded anew."""
        attempt = 0
        while True:
            answer = await self._sink.post(self._tenant, request.body, self._encoder.version, attempt)
            verdict = judge(answer, self._encoder.version)
            metrics.FORWARD_REQUESTS.labels(self._tenant, _code(answer)).inc()
            self._hold(_code(answer) if verdict is Verdict.HOLD else "")
            if verdict is Verdict.OLDER_VERSION:
                _log.info("the receiver does not speak remote write 2.0", extra={"tenant": self._tenant})
                self._encoder = Encoder(1)
                return False
            if self._too_large(verdict, answer, request, attempt):
                self._limit = max(request.samples // 2, 1)
                return False
            if verdict in (Verdict.LATER, Verdict.HOLD):
                attempt += 1
                await self._pause(verdict, answer, attempt)
                continue
            self._account(verdict, answer, request)
            return True

    @staticmethod
    def _too_large(verdict: Verdict, answer: Answer, request: Request, attempt: int) -> bool:
        """Whether a smaller one could pass: this is too large, or more than the burst, and is refused for its rate."""
        if request.samples == 1:
            return False
        return verdict is Verdict.SMALLER or (verdict is Verdict.LATER and answer.status == 429 and attempt > 0)

    async def _pause(self, verdict: Verdict, answer: Answer, attempt: int) -> None:
        extra = {"tenant": self._tenant, "status": _code(answer), "why": answer.text[:200], "attempt": attempt}
        if verdict is Verdict.HOLD:
            _log.error("the receiver refuses everything of this tenant, which is kept", extra=extra)
            await asyncio.sleep(HOLD_S)
            return
        backoff_s = min(FIRST_BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S) * random.uniform(0.5, 1)  # noqa: S311
        wait_s = min(answer.retry_after_s, MAX_RETRY_AFTER_S) if answer.retry_after_s is not None else backoff_s
        _log.warning("the receiver takes nothing now", extra=extra | {"retry_s": round(wait_s, 1)})
        await asyncio.sleep(wait_s)

    def _hold(self, code: str) -> None:
        if self._held and self._held != code:
            metrics.FORWARD_HELD.remove(self._tenant, self._held)
        if code:
            metrics.FORWARD_HELD.labels(self._tenant, code).set(1)
        self._held = code

    def _account(self, verdict: Verdict, answer: Answer, request: Request) -> None:
        if verdict is Verdict.DELIVERED:
            metrics.FORWARD_SENT.labels(self._tenant).inc(request.samples)
            self._limit = min(self._limit * 2, self._max_samples)
            return
        metrics.FORWARD_REFUSED.labels(self._tenant, answer.reason).inc(request.samples)
        extra = {"tenant": self._tenant, "samples": request.samples, "why": answer.text[:500]}
        _log.warning("samples refused", extra=extra)


def _code(answer: Answer) -> str:
    return str(answer.status or "none")
