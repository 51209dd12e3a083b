"""The nodes and the jobs, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from bench.policies.plant import Box, Task
from hub.core.jobs import Input, Job, Requirement, Work

ENGINE = Requirement("sonic", "1")
GIB = 1 << 30
HOUR_S, DAY_S, WEEK_S = 3600.0, 86_400.0, 7 * 86_400.0
CLASSES = (  # name, memory, seconds of work for a second of video at 512 px, how many
    ("NVIDIA L40S", 48, 15.0, 2),
    ("NVIDIA GeForce RTX 4090", 24, 18.0, 4),
    ("NVIDIA RTX A4000", 16, 36.0, 5),
    ("NVIDIA GeForce RTX 3060", 12, 60.0, 6),
    ("NVIDIA T4", 16, 90.0, 2),
    ("Jetson Orin", 16, 150.0, 4),
    ("", 0, 400.0, 1),
)
SIZES = ((512, 0.6, 6.5), (768, 0.25, 10.0), (1024, 0.15, 14.5))  # short side, share of jobs, GiB
TENANTS = ("studio", "school", "shop", "news", "games")


def fleet(seed: int, weeks: float) -> list[Box]:
    """The nodes, and what befalls them."""
    drawn = Random(f"fleet {seed}")
    boxes: list[Box] = []
    for gpu_class, memory, rate, count in CLASSES:
        for _ in range(count):
            region = ("eu", "us", "asia")[len(boxes) % 3]
            own = rate * drawn.lognormvariate(0, 0.1)
            line = drawn.choice((1e6, 5e6, 2e7))
            boxes.append(Box(f"node-{len(boxes):02d}", region, gpu_class, memory * GIB, own, line))
    end_s = weeks * WEEK_S
    for box in boxes:
        for since in _moments(drawn, 1 / WEEK_S, end_s):
            box.away.append((since, since + drawn.uniform(30, 1800), True))
        for since in _moments(drawn, 0.5 / WEEK_S, end_s):
            box.slow.append((since, since + drawn.uniform(2, 12) * HOUR_S, drawn.uniform(2, 6)))
        for since in _moments(drawn, 0.3 / WEEK_S, end_s):
            box.flaky.append((since, since + drawn.uniform(3, 24) * HOUR_S))
        if drawn.random() < 0.25:
            for day in range(math.ceil(end_s / DAY_S)):
                since = day * DAY_S + drawn.uniform(12, 14) * HOUR_S
                until = since + drawn.uniform(2, 5) * HOUR_S
                box.hot.append((since, until))
                box.slow.append((since, until, drawn.uniform(1.2, 1.8)))
    cut_s = drawn.uniform(0.2, 0.8) * end_s
    for box in boxes:
        if box.region == "us":
            box.away.append((cut_s + drawn.random(), cut_s + 2400 + 5 * drawn.random(), False))
    return boxes


def demand(seed: int, weeks: float, load: float, boxes: list[Box]) -> list[Task]:
    """The jobs: days, weekends, bursts, and portraits that come again."""
    drawn = Random(f"demand {seed}")
    end_s = weeks * WEEK_S
    size_work = sum(share * (side / 512) ** 1.8 for side, share, _ in SIZES)
    per_s = load * sum(1 / box.rate for box in boxes) / (21.0 * size_work)
    moments = [at for at in _moments(drawn, 1.6 * per_s * 0.85, end_s) if drawn.random() < _rhythm(at) / 1.6]
    for since in _moments(drawn, 2 / DAY_S, end_s):
        moments += [
            since + drawn.uniform(0, 600) for _ in range(round(drawn.uniform(0.02, 0.09) * per_s * 24 * HOUR_S / 2))
        ]
    moments.sort()
    return [_task(drawn, number, at_s) for number, at_s in enumerate(moments)]


def _task(drawn: Random, number: int, at_s: float) -> Task:
    side_px, _, gib = drawn.choices(SIZES, [share for _, share, _ in SIZES])[0]
    video_s = min(max(drawn.lognormvariate(math.log(14), 0.9), 3.0), 600.0)
    tenant = drawn.choice(TENANTS)
    portrait = round(1 / (0.003 + drawn.random()))  # some faces are seen often
    inputs = (Input(f"{tenant}-face-{portrait}", 1_500_000), Input(f"voice-{number}", round(30_000 * video_s)))
    usual_s = 50.0 * (side_px / 512) ** 1.8 * video_s
    deadline_s = at_s + 300 + usual_s * drawn.uniform(1, 4) if drawn.random() < 0.15 else math.inf
    job = Job(f"job-{number}", tenant, ENGINE, 0, at_s, number, Work(video_s, side_px), inputs, deadline_s=deadline_s)
    return Task(number, at_s, job, round(gib * GIB), tuple(drawn.random() for _ in range(6)))


def _rhythm(at_s: float) -> float:
    """How much is asked for, against the mean of a working day."""
    weekend = (at_s // DAY_S) % 7 >= 5
    return (1 + 0.5 * math.sin(2 * math.pi * (at_s / DAY_S - 0.3))) * (0.5 if weekend else 1.0)


def _moments(drawn: Random, per_s: float, end_s: float) -> Iterator[float]:
    at_s = drawn.expovariate(per_s)
    while at_s < end_s:
        yield at_s
        at_s += drawn.expovariate(per_s)
