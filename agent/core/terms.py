"""How patient the decisions are. All values are seconds unless their name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first_s` with every failure in a row, up to `most_s`."""

    first_s: float
    most_s: float

    def delay_s(self, failures: int) -> float:
        """The wait after so many failures in a row; none after none."""
        if failures < 1:
            return 0.0
        doublings = min(failures - 1, 32)
        return min(self.most_s, self.first_s * 2.0**doublings)


@dataclass(frozen=True)
class Terms:
    """What one agent's decisions go by."""

    slots: int = 1
    plays_faults: bool = False  # whether operators may let it suffer faults
    load_timeout_s: float = 300.0
    probe_timeout_s: float = 120.0
    silence_timeout_s: float = 30.0  # no sign of life from a loaded worker
    stall_timeout_s: float = 60.0  # a render whose ticks stand still
    cancel_grace_s: float = 5.0
    drain_timeout_s: float = 300.0
    flush_timeout_s: float = 10.0  # for results that wait for a hub that is not there
    resend_s: float = 15.0
    progress_interval_s: float = 0.3
    steady_session_s: float = 30.0  # a session that held so long ends a row of failures
    upload_refusals: int = 6  # before the video is given up
    reconnect: Backoff = Backoff(2.0, 30.0)
    restart: Backoff = Backoff(1.0, 60.0)
    upload: Backoff = Backoff(1.0, 60.0)
