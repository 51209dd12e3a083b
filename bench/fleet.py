"""What a fleet costs one hub: CPU, memory and placement time with 100 to 10 000 agents that are connected.

Every agent has a session and sends heartbeats as often as Welcome asks, with one slot and one GPU; a few jobs a second
trickle in meanwhile, and end at once. CPU is the hub's own processor time over the time on the wall, in cores; the
agents run in two other processes, whose share is told beside it (`load_cores`): where both together need more than the
machine has, the hub was slowed down, but not spared. `memory_per_agent_kb` is what each agent adds beyond the smallest
fleet. A measurement counts only if every session was live before and after it, and the heartbeats came
as often as they were due. `exponent` is the slope of CPU over agents, both on logarithmic scales: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from bench.loads.hub import Agents, Hub, agents, cpu_s, hub, rss_mb

PROCESSES = 2  # of agents
SETTLE_S = 7.0  # more than a heartbeat interval
HEARTBEAT_S = 5.0  # as the hub asks when nothing is set
LEAST_BEATS = 0.9  # of those that are due: with fewer, the fleet was not what it is said to be
_SESSIONS = re.compile(r"sonic_hub_sessions\{[^}]*\} ([\d.e+]+)")
_BUCKET = re.compile(r'sonic_hub_placement_seconds_bucket\{le="([^"]+)"\} ([\d.e+]+)')


def metrics(of: Hub) -> str:
    with urllib.request.urlopen(f"{of.http}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def placements(text: str) -> dict[float, float]:
    """How many placements took at most so long, in seconds."""
    return {float(limit): float(count) for limit, count in _BUCKET.findall(text)}


def check_sessions(text: str, count: int) -> None:
    live = sum(map(float, _SESSIONS.findall(text)))
    assert live == count, f"{live:.0f} sessions are live instead of {count}; the numbers would be of another fleet"


def quantile_ms(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """As Prometheus' histogram_quantile reads it."""
    counts = {limit: after[limit] - before[limit] for limit in sorted(after)}
    wanted, low_s, below = share * counts[math.inf], 0.0, 0.0
    for limit, count in counts.items():
        if count >= wanted:
            inside = (wanted - below) / max(count - below, 1e-9)
            return (low_s if math.isinf(limit) else low_s + (limit - low_s) * inside) * 1e3
        low_s, below = limit, count
    return math.nan


def measure(of: Hub, fleets: list[Agents], count: int, given: argparse.Namespace) -> dict[str, float]:
    pids = [fleet.program.pid for fleet in fleets]
    text = metrics(of)
    check_sessions(text, count)
    before = placements(text)
    command = [sys.executable, "-m", "bench.loads.callers", "--hub", of.address, *of.inputs]
    command += ["--trickle", str(given.seconds), "--rate", str(given.rate), "--by-calls"]
    sent = sum(fleet.heartbeats for fleet in fleets)
    hub_s, load_s, began_s = cpu_s(of.program.pid), sum(map(cpu_s, pids)), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took_s = time.monotonic() - began_s
    hub_s, load_s = cpu_s(of.program.pid) - hub_s, sum(map(cpu_s, pids)) - load_s
    beats_per_s = (sum(fleet.heartbeats for fleet in fleets) - sent) / took_s
    due_per_s = count / HEARTBEAT_S
    assert beats_per_s >= LEAST_BEATS * due_per_s, (
        f"{beats_per_s:.0f} heartbeats a second came; {due_per_s:.0f} are due"
    )
    scrapes: list[float] = []
    for _ in range(3):
        scrape_s = time.monotonic()
        text = metrics(of)
        scrapes.append(time.monotonic() - scrape_s)
    check_sessions(text, count)
    after = placements(text)
    return {
        "agents": count,
        "heartbeats_per_s": round(beats_per_s, 1),
        "cores": round(hub_s / took_s, 3),
        "load_cores": round(load_s / took_s, 3),
        "rss_mb": round(rss_mb(of.program.pid), 1),
        "placement_p50_ms": round(quantile_ms(before, after, 0.5), 3),
        "placement_p99_ms": round(quantile_ms(before, after, 0.99), 3),
        "placements": after[math.inf] - before[math.inf],
        "scrape_ms": round(statistics.median(scrapes) * 1e3, 1),
    }


def fleet(count: int, given: argparse.Namespace) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="sonic-bench-") as folder,
        hub(Path(folder)) as centre,
        ExitStack() as stack,
    ):
        began_s, joining_s = time.monotonic(), cpu_s(centre.program.pid)
        share = count // PROCESSES
        fleets = [stack.enter_context(agents(centre, share, first=share * number)) for number in range(PROCESSES)]
        joined = {
            "joined_in_s": round(time.monotonic() - began_s, 1),
            "join_cpu_ms": round((cpu_s(centre.program.pid) - joining_s) * 1e3 / count, 2),
        }
        time.sleep(SETTLE_S)
        return measure(centre, fleets, count, given) | joined


def exponent(found: list[dict[str, float]]) -> float:
    """Of the line through the logarithms."""
    fit = statistics.linear_regression(
        [math.log(one["agents"]) for one in found], [math.log(max(one["cores"], 1e-3)) for one in found]
    )
    return round(fit.slope, 2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--agents", type=int, nargs="*", default=[100, 1000, 5000, 10_000])
    options.add_argument("--seconds", type=float, default=40.0, help="of each measurement (default: 40)")
    options.add_argument("--rate", type=float, default=5.0, help="jobs a second meanwhile (default: 5)")
    given = options.parse_args()
    found: list[dict[str, float]] = []
    for count in given.agents:
        found.append(fleet(count, given))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    numbers: dict[str, object] = {str(one["agents"]): one for one in found}
    if len(found) > 1:
        first, last = found[0], found[-1]
        more_mb, more = last["rss_mb"] - first["rss_mb"], last["agents"] - first["agents"]
        numbers |= {"memory_per_agent_kb": round(more_mb * 1024 / more, 1), "exponent": exponent(found)}
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
