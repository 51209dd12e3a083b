"""How work is offered, the same for every system: so many jobs in flight, or so many a second whatever becomes of them.

Only the standard library is used, for the peers' programs run in an environment of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

One = Callable[[], Awaitable[None]]
"""One job from its submission until its result is there."""


async def saturated_per_s(one: One, in_flight: int, seconds: float) -> float:
    """Jobs a second while as many as `in_flight` are never done."""
    done = 0
    until_s = time.monotonic() + seconds

    async def keep_on() -> None:
        nonlocal done
        while time.monotonic() < until_s:
            await one()
            done += 1

    began_s = time.monotonic()
    await asyncio.gather(*(keep_on() for _ in range(in_flight)))
    return done / (time.monotonic() - began_s)


async def steady_ms(one: One, per_s: float, seconds: float) -> list[float]:
    """What each job took in milliseconds; a slow one never holds back those that follow."""
    found: list[float] = []

    async def timed() -> None:
        began_s = time.monotonic()
        await one()
        found.append((time.monotonic() - began_s) * 1e3)

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(began_s + number / per_s - time.monotonic(), 0))
            group.create_task(timed())
    return found


def told(jobs_per_s: float, latencies_ms: list[float], **more: Any) -> dict[str, Any]:
    """What a driver prints, as one line of JSON."""
    return {"jobs_per_s": jobs_per_s, "latencies_ms": latencies_ms, **more}
