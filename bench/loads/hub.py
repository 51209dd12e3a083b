"""A hub and its agents as processes of their own, and what each of them costs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.loads import callers
from tests.processes import Process, free_port, process, wait_until_ready

_TICKS = os.sysconf("SC_CLK_TCK")
_LOG_BYTES = 4000


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class Hub:
    """A hub that serves, with a portrait, a voice and a video uploaded."""

    program: Process
    address: str
    http: str
    folder: Path

    @property
    def inputs(self) -> list[str]:
        return ["--portrait", _sha256(callers.PORTRAIT), "--voice", _sha256(callers.VOICE)]


@dataclass
class Agents:
    """A process with many agents; `acknowledged` is there when it has been stopped."""

    program: Process
    out: Path

    @property
    def heartbeats(self) -> int:
        """How many have been sent."""
        return int(self.out.with_suffix(".beats").read_text())

    def acknowledged(self) -> dict[str, float]:
        self.program.stop()
        found: dict[str, float] = json.loads(self.out.read_text())
        return found


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """A hub with the settings that it has when nothing is set."""
    grpc_port, http_port = free_port(), free_port()
    command = [sys.executable, "-m", "sonic", "hub", "--insecure", "--listen", f"127.0.0.1:{grpc_port}"]
    command += ["--http-listen", f"127.0.0.1:{http_port}", "--data-dir", str(folder / "hub")]
    with process(command, folder / "hub.log") as program:
        wait_until_ready(f"http://127.0.0.1:{http_port}/readyz", program)
        made = Hub(program, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}", folder)
        asyncio.run(_upload(made.address))
        yield made  # and then it is killed: a large fleet's sessions take long to end one by one


@contextlib.contextmanager
def agents(of: Hub, count: int, slots: int = 1, first: int = 0) -> Iterator[Agents]:
    """So many agents in one process, all of them joined."""
    out = of.folder / f"agents-{first}.json"
    command = [sys.executable, "-m", "bench.loads.agents", "--hub", of.address, "--out", str(out)]
    command += ["--count", str(count), "--slots", str(slots), "--first", str(first)]
    command += ["--video", _sha256(callers.VIDEO), "--video-bytes", str(len(callers.VIDEO))]
    out.with_suffix(".ready").unlink(missing_ok=True)
    with process(command, of.folder / f"agents-{first}.log") as program:
        while not out.with_suffix(".ready").exists():
            assert program.running
            assert program.running.poll() is None, program.log.read_text()[-_LOG_BYTES:]
            time.sleep(0.02)
        yield Agents(program, out)


def driver(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a driver; what it printed last, as JSON."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-_LOG_BYTES:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def _upload(address: str) -> None:
    caller = callers.Caller(address, "", "")
    for data in (callers.PORTRAIT, callers.VOICE, callers.VIDEO):
        await caller.upload(data, _sha256(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
