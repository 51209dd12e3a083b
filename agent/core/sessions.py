"""When to call the hub, and when to give a sign of life."""

from __future__ import annotations

import math
from enum import StrEnum

from agent.core.instructions import SlotView
from agent.core.terms import Terms


class SessionState(StrEnum):
    """Where the conversation with the hub is."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class Session:
    """The conversation with the hub."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.state = SessionState.DOWN
        self.detail = "not connected yet"
        self.takes_checkpoints = False
        self._failures = 0
        self._connect_at_s = 0.0
        self._up_since_s = 0.0
        self._heartbeat_interval_s = 1.0
        self._longest_pause_s = math.inf
        self._heartbeat_at_s = 0.0
        self._told: tuple[SlotView, ...] = ()

    @property
    def up(self) -> bool:
        return self.state is SessionState.UP

    def welcomed(self, heartbeat_interval_s: float, lease_s: float, takes_checkpoints: bool, now: float) -> None:
        """From now on no pause between calls is so long that leases run out in it."""
        self.state, self.detail, self.takes_checkpoints = SessionState.UP, "", takes_checkpoints
        self._up_since_s = self._heartbeat_at_s = now
        self._heartbeat_interval_s = heartbeat_interval_s
        self._longest_pause_s = lease_s / 4

    def ended(self, detail: str, jitter: float, now: float) -> None:
        """A session that ends young counts as a failure, so that two agents of one name do not chase each other."""
        if self.up and now - self._up_since_s >= self._terms.steady_session_s:
            self._failures = 0
        self._failures += 1
        self.state, self.detail = SessionState.DOWN, detail
        pause_s = min(self._terms.reconnect.delay_s(self._failures), self._longest_pause_s)
        self._connect_at_s = now + jitter * pause_s

    def connect_due(self, now: float) -> bool:
        """Whether to call now; whoever is told so calls."""
        if self.state is not SessionState.DOWN or now < self._connect_at_s:
            return False
        self.state = SessionState.CONNECTING
        return True

    def heartbeat_soon(self) -> None:
        """Something has changed that the hub is to see."""
        self._heartbeat_at_s = 0.0

    def heartbeat_due(self, slots: tuple[SlotView, ...], now: float) -> bool:
        """Whether to send one now: time has come, or a slot has changed."""
        if not self.up or (now < self._heartbeat_at_s and slots == self._told):
            return False
        self._told = slots
        self._heartbeat_at_s = now + self._heartbeat_interval_s
        return True
