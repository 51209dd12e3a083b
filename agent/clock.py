"""The box's clock, as far as it is told to the hub: a game day may set it wrong."""

from __future__ import annotations

import time


class Clock:
    """Wall clock."""

    def __init__(self) -> None:
        self.skew_s = 0.0

    def now_ns(self) -> int:
        return time.time_ns() + int(self.skew_s * 1e9)
