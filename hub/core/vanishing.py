"""When many sessions end together, the hub or its line is the suspect: nothing is given away for the grace period."""

from __future__ import annotations

_WINDOW_S = 10.0  # silence is noticed a heartbeat apart, and leases run for longer than this
_LEAST_SHARE, _LEAST_NODES = 0.3, 3
_BACK_SHARE = 0.8  # what is missing then is as much as is lost on any day


class Vanishing:
    """Watches sessions end. `frozen` holds from a mass vanish until the grace period is over or most are back."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._cut_at_s: dict[str, float] = {}  # nodes lost lately, or since the freeze, and not back; in that order
        self._gone = 0  # lost in this freeze
        self.frozen = False
        self.until_s = 0.0
        self.reason = ""  # of the newest change, in words

    def cut(self, now: float, node_id: str, sessions: int) -> bool:
        """A session has ended and `sessions` are left; whether requeueing is frozen from now on.

        Not for a node that said it was leaving, nor for a session that a newer one of the same node has replaced.
        """
        self.ticked(now)
        if not self.frozen:
            self._forget_old(now)
        again = self._cut_at_s.pop(node_id, None) is not None
        self._gone += self.frozen and not again
        self._cut_at_s[node_id] = now
        lost = len(self._cut_at_s)
        if self.frozen or lost < _LEAST_NODES or lost < _LEAST_SHARE * (sessions + lost):
            return False
        self.frozen, self.until_s, self._gone = True, now + self._grace_s, lost
        self.reason = (
            f"{lost} of {sessions + lost} sessions ended within {_WINDOW_S:g} s: the hub or its line is the suspect; "
            f"nothing is requeued for {self._grace_s:g} s unless most come back before"
        )
        return True

    def joined(self, now: float, node_id: str) -> bool:
        """A session has begun; whether the freeze has ended by it."""
        if self._cut_at_s.pop(node_id, None) is None or not self.frozen:
            return False
        back = self._gone - len(self._cut_at_s)
        if back < _BACK_SHARE * self._gone:
            return False
        self._thaw(f"{back} of the {self._gone} nodes that vanished are back")
        return True

    def ticked(self, now: float) -> bool:
        """Time has passed; whether the freeze has ended by it."""
        if not self.frozen or now < self.until_s:
            return False
        self._thaw(f"{len(self._cut_at_s)} of {self._gone} nodes that vanished are not back after {self._grace_s:g} s")
        return True

    def _forget_old(self, now: float) -> None:
        """To look at all of them each time would make a vanish of ten thousand last for seconds."""
        while self._cut_at_s:
            oldest = next(iter(self._cut_at_s))
            if now - self._cut_at_s[oldest] <= _WINDOW_S:
                return
            del self._cut_at_s[oldest]

    def _thaw(self, reason: str) -> None:
        self.frozen, self.reason = False, reason
        self._cut_at_s.clear()
