"""What a seed stands for: which fleet, which jobs, and which faults strike when."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

KINDS = (
    "crash",
    "power_loss",
    "partition",
    "slow_line",
    "duplicate",
    "reorder",
    "node_clock_jump",
    "hub_clock_jump",
    "disk_full",
    "worker_hang",
    "node_freeze",
    "gray_slow",
    "flaky",
    "drain",
    "hub_restart",
    "hub_host_lost",
    "hub_dies_decided",
    "hub_dies_committed",
    "hub_dies_sending",
    "mass_vanish",
    "region_outage",
    "store_stall",
    "commit_in_doubt",
    "answers_lost",
)
OF_THE_HUB = frozenset(
    kind for kind in KINDS if kind.startswith(("hub", "store", "commit", "mass", "region", "answers"))
)


@dataclass(frozen=True)
class Fault:
    """One fault. `node` is drawn even where it is not needed, so that plans stay alike."""

    kind: str
    at_s: float
    node: int
    lasts_s: float
    size: float  # 0 to 1: how bad


@dataclass(frozen=True)
class Plan:
    """A run."""

    seed: int
    nodes: int
    faulty_s: float  # how long jobs come and faults strike
    load: float  # share of the fleet's capacity that is asked for
    regions: int
    weights: dict[str, float]
    most_jobs: int
    saturated: bool = False  # no faults: every tenant has more work than fits, and the shares are measured
    faults: tuple[Fault, ...] = field(default=())


def draw(seed: int, nodes: int | None = None, faulty_s: float | None = None) -> Plan:
    """The plan of a seed; the size and the time are drawn too unless they are given."""
    random = Random(f"plan {seed}")  # noqa: S311
    count = round(3 * (50 / 3) ** random.random())
    count = nodes or count
    time_s = faulty_s or random.choice((60.0, 120.0, 240.0))
    weights = {f"tenant-{letter}": random.choice((1.0, 1.0, 2.0, 3.0)) for letter in "abcd"[: random.randint(1, 4)]}
    load = random.choice((0.3, 0.6, 0.9, 1.3))
    regions = random.randint(1, 3)
    saturated = random.random() < 0.08 and 20 <= count <= 100
    if saturated:
        return Plan(seed, count, 0.0, 1.0, regions, weights, 4000, saturated=True)
    kinds = random.sample(KINDS, random.randint(2, 8))
    faults = []
    for kind in kinds:
        usual = time_s / 60 if kind in OF_THE_HUB else time_s / 60 * max(1.0, min(count, 100) / 6)
        for _ in range(random.randint(1, 1 + round(2 * usual))):
            at_s, node = random.uniform(2, time_s), random.randrange(count)
            lasts_s = random.choice((random.uniform(0.1, 5), random.uniform(5, 40), random.uniform(20, 120)))
            faults.append(Fault(kind, at_s, node, lasts_s, random.random()))
    most_jobs = 400 if count <= 100 else count
    return Plan(seed, count, time_s, load, regions, weights, most_jobs, faults=tuple(faults))
