"""Celery with Redis: the no-op task, and a caller of it. Runs in the peers' environment.

Tasks are acknowledged late, so that a killed worker loses none; Redis appends to its file and syncs it every second.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

from celery import Celery

from bench.loads import pace

URL = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/0")
app = Celery("bench", broker=URL, backend=URL)
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True


@app.task
def noop(key: str) -> str:
    return key


class Caller:
    """One thread that submits and takes in results as they come: less work for it than a thread for each job."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.latencies_ms: list[float] = []
        self._consumer = app.backend.result_consumer
        self._pending: set[Any] = set()  # Celery itself holds them weakly

    def submit(self) -> None:
        began_s = time.monotonic()
        self.in_flight += 1
        result = noop.delay("0" * 32)

        def ended(_result: Any) -> None:
            self.latencies_ms.append((time.monotonic() - began_s) * 1e3)
            self.in_flight -= 1
            self._pending.discard(result)

        self._pending.add(result)
        result.then(ended)

    def listen(self, seconds: float) -> None:
        self._consumer.drain_events(timeout=seconds)

    def drain(self) -> None:
        while self.in_flight:
            self.listen(0.1)


def saturated_per_s(caller: Caller, in_flight: int, seconds: float) -> float:
    began_s = time.monotonic()
    caller.latencies_ms.clear()
    while time.monotonic() - began_s < seconds:
        while caller.in_flight < in_flight:
            caller.submit()
        caller.listen(1.0)
    caller.drain()
    return len(caller.latencies_ms) / (time.monotonic() - began_s)


def steady_ms(caller: Caller, per_s: float, seconds: float, clock: Callable[[], float] = time.monotonic) -> list[float]:
    caller.latencies_ms.clear()
    began_s = clock()
    for number in range(int(per_s * seconds)):
        while (ahead_s := began_s + number / per_s - clock()) > 0:
            caller.listen(ahead_s)
        caller.submit()
    caller.drain()
    return list(caller.latencies_ms)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--in-flight", type=int, required=True)
    options.add_argument("--rate", type=float, required=True)
    options.add_argument("--seconds", type=float, required=True)
    given = options.parse_args()
    caller = Caller()
    saturated_per_s(caller, 4, 1.0)  # warm
    per_s = saturated_per_s(caller, given.in_flight, given.seconds)
    time.sleep(0.5)
    print(json.dumps(pace.told(per_s, steady_ms(caller, given.rate, given.seconds))))


if __name__ == "__main__":
    main()
