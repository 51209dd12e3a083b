"""Real processes for tests: started, waited for, killed, and never left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # of those that test side by side
_PORTS = range(20_000 + 1_000 * (_NUMBER % 12), 21_000 + 1_000 * (_NUMBER % 12))
_untried = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))


def free_port() -> int:
    """One for a program that listens later: none of those that the system gives to connections meanwhile."""
    for port in _untried:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"there is no free port in {_PORTS}")


@dataclass
class Process:
    """A program that can be killed and started again with the same arguments; its output goes to `log`."""

    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.environment
            )

    @property
    def pid(self) -> int:
        assert self.running
        return self.running.pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.running
        self.running.send_signal(number)
        self.running.wait(60)

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM; returns the exit status."""
        assert self.running
        self.running.terminate()
        return self.running.wait(timeout_s)


@contextlib.contextmanager
def process(command: list[str], log: Path, **environment: str) -> Iterator[Process]:
    made = Process(command, log, environment)
    made.start()
    try:
        yield made
    finally:
        if made.running and made.running.poll() is None:
            made.running.kill()
            made.running.wait()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until_ready(url: str, program: Process, timeout_s: float = 120) -> None:
    """Until `url` answers 200. Fails with the log when the program ends first."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        assert program.running
        assert program.running.poll() is None, f"ended with {program.running.returncode}:\n{program.log.read_text()}"
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=10).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"{url} was not ready within {timeout_s} s:\n{program.log.read_text()}")
