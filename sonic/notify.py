"""What systemd wants to know of a service: that it is ready, that it stops, that it lives. See sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Speaks to NOTIFY_SOCKET; silent where there is none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_interval_s = _watchdog_s(environment) / 2
        self._watchdog_at_s = self._extend_at_s = 0.0
        self._status = ""
        self._ready = False

    def ready(self) -> None:
        """The service can do its work; said once."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def starting(self, seconds: float, now: float) -> None:
        """The service may need so much longer until it is ready; said again when half of it has passed."""
        if not self._ready and now >= self._extend_at_s:
            self._extend_at_s = now + seconds / 2
            self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self, seconds: float) -> None:
        """The service ends what it does, for at most so long."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self, now: float) -> None:
        """The service decides; said twice per watchdog period, if systemd watches."""
        if self._watchdog_interval_s and now >= self._watchdog_at_s:
            self._watchdog_at_s = now + self._watchdog_interval_s
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A supervisor that does not listen is no reason to stop rendering.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto(text.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdigit() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(usec) / 1e6
