"""Who shows credentials or join tokens that are not good, again and again, has to wait before more are looked at."""

from __future__ import annotations

import time
from collections import OrderedDict

from hub import exceptions
from hub.core.tenants import Rate

FAILURES_PER_MINUTE = 30.0  # of one address, before it has to wait
MOST_ADDRESSES = 10_000


class Failures:
    """Who has presented too many credentials that were not good. Others at the same address that were good go on."""

    def __init__(self) -> None:
        self._rates: OrderedDict[str, tuple[Rate, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long nothing new is looked at from there."""
        _, until_s = self._rates.get(address, (None, 0.0))
        return max(until_s - time.monotonic(), 0.0)

    def count(self, address: str) -> None:
        now = time.monotonic()
        rate, _ = self._rates.pop(address, (Rate.full(FAILURES_PER_MINUTE, now), 0.0))
        self._rates[address] = (rate, now + rate.take(1, now))
        while len(self._rates) > MOST_ADDRESSES:
            self._rates.popitem(last=False)


def too_many(what: str, wait_s: float) -> exceptions.LimitReached:
    """The refusal for those who have to wait."""
    return exceptions.LimitReached(
        f"{what} from this address", f"{FAILURES_PER_MINUTE:g} a minute may fail", retry_after_s=wait_s
    )
