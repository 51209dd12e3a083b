"""What an agent costs the box while it has nothing to render: resident memory and CPU, of its own process alone.

Both agents have a session with a real hub and a warm worker, which is a process of its own and not counted. `idle`
samples its metrics once and then waits; `sampling` samples every 15 s and hands the samples to the hub. CPU is the
process's own time in /proc over the time on the wall, in percent of one core; memory is the most that was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.processes import Process, free_port, process, wait_until_ready

INTERVALS_S = {"idle": 86_400.0, "sampling": 15.0}
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY_S = 1.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def measure(interval_s: float, seconds: float, folder: Path) -> dict[str, float]:
    """An agent that samples so often, once it is ready."""
    grpc_port, hub_port, agent_port = free_port(), free_port(), free_port()
    sonic = [sys.executable, "-m", "sonic"]
    hub = [*sonic, "hub", "--insecure", "--listen", f"127.0.0.1:{grpc_port}", "--http-listen", f"127.0.0.1:{hub_port}"]
    hub += ["--data-dir", str(folder / "hub"), "--forward-interval-s", str(interval_s)]
    agent = [
        *sonic,
        "agent",
        "--insecure",
        "--hub",
        f"127.0.0.1:{grpc_port}",
        "--node-id",
        "bench",
        "--region",
        "bench",
    ]
    agent += ["--http-listen", f"127.0.0.1:{agent_port}", "--data-dir", str(folder / "agent")]
    with process(hub, folder / "hub.log") as centre, process(agent, folder / "agent.log") as node:
        wait_until_ready(f"http://127.0.0.1:{hub_port}/readyz", centre)
        wait_until_ready(f"http://127.0.0.1:{agent_port}/readyz", node)
        time.sleep(5)  # what starting has left to do
        found = watched(node, seconds)
        node.stop()
        centre.stop()
    return found


def watched(node: Process, seconds: float) -> dict[str, float]:
    began_s, before_s = time.monotonic(), cpu_s(node.pid)
    most_mb = 0.0
    while time.monotonic() - began_s < seconds:
        time.sleep(_LOOK_EVERY_S)
        most_mb = max(most_mb, rss_mb(node.pid))
    took_s = time.monotonic() - began_s
    return {"rss_mb": round(most_mb, 1), "cpu_percent": round((cpu_s(node.pid) - before_s) / took_s * 100, 2)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=120.0, help="of each measurement (default: 120)")
    seconds = options.parse_args().seconds
    found: dict[str, object] = {"seconds": seconds}
    for name, interval_s in INTERVALS_S.items():
        with tempfile.TemporaryDirectory(prefix="sonic-bench-") as folder:
            found[name] = measure(interval_s, seconds, Path(folder))
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
