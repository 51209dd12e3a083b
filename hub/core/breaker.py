"""temporary"""

from __future__ import annotations


class Breaker:
    reason = ""

    def forgive(self, job_id: str) -> None: ...


class Vanishing:
    def __init__(self, grace_s: float) -> None: ...
    def frozen(self, now: float) -> bool:
        return False
