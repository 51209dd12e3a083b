"""Real processes for tests: started, waited for, killed, and never left behind."""

from __future__ import annotations

import contextlib
import os
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
        self.running.wait(30)

    def stop(self, timeout_s: float = 30) -> int:
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


def wait_until_ready(url: str, program: Process, timeout_s: float = 60) -> None:
    """Until `url` answers 200. Fails with the log when the program ends first."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        assert program.running
        assert program.running.poll() is None, f"ended with {program.running.returncode}:\n{program.log.read_text()}"
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"{url} was not ready within {timeout_s} s:\n{program.log.read_text()}")
