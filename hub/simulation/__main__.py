"""`python -m hub.simulation`: one seed with its story, or many seeds for a while."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context

from hub.simulation import plans
from hub.simulation.fleet import Fleet, Outcome, run_seed
from hub.simulation.stories import Story

AT_ONCE = 8  # seeds that wait for each process


def tell(seed: int, nodes: int | None, faulty_s: float | None, job_id: str) -> int:
    """Run one seed and tell the story of a job: the one asked for, else the one whose promise was broken."""
    story = Story()
    outcome = Fleet(plans.draw(seed, nodes, faulty_s), story).run()
    about = job_id or (outcome.broken.job_id if outcome.broken else "")
    if about:
        print(story.of_job(about), end="\n\n")
    _report(outcome)
    print(json.dumps(_sum([outcome])))
    return 1 if outcome.broken else 0


def run_many(seeds: Iterator[int], processes: int, minutes: float, nodes: int | None) -> int:
    """Seed after seed until they or the time are used up; each that breaks a promise is told at once."""
    until_s = time.monotonic() + 60 * minutes
    outcomes: list[Outcome] = []
    broken = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        begun = {pool.submit(run_seed, seed, nodes) for seed in itertools.islice(seeds, AT_ONCE * processes)}
        while begun:
            done, begun = wait(begun, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes.append(future.result())
                if outcomes[-1].broken:
                    broken += 1
                    _report(outcomes[-1])
            if time.monotonic() < until_s:
                begun |= {pool.submit(run_seed, seed, nodes) for seed in itertools.islice(seeds, len(done))}
            steps = sum(one.steps for one in outcomes)
            print(f"\r{len(outcomes)} seeds, {steps} steps, {broken} broken", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(json.dumps(_sum(outcomes)))
    return 1 if broken else 0


def _report(outcome: Outcome) -> None:
    if outcome.broken:
        print(f"seed {outcome.plan.seed}: {outcome.broken}")
        print(f"  job {outcome.broken.job_id}; its story: {outcome.replay}")


def _sum(outcomes: list[Outcome]) -> dict[str, object]:
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
    return {
        "seeds": len(outcomes),
        "steps": sum(outcome.steps for outcome in outcomes),
        "simulated_s": round(sum(outcome.simulated_s for outcome in outcomes)),
        "jobs": sum(outcome.jobs for outcome in outcomes),
        "faults": dict(sorted(faults.items())),
        "violations": sum(outcome.broken is not None for outcome in outcomes),
    }


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m hub.simulation", description=__doc__)
    options.add_argument("--seed", type=int, help="run this one seed and tell what it broke")
    options.add_argument("--story", default="", metavar="JOB", help="with --seed: tell the story of this job")
    options.add_argument("--seeds", type=int, help="how many seeds to run (default: as many as the time allows)")
    options.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    options.add_argument("--minutes", type=float, default=10.0, help="begin no seed after so long (default: 10)")
    options.add_argument("--nodes", type=int, help="nodes of every fleet (default: drawn from the seed, 3 to 50)")
    options.add_argument("--faulty-s", type=float, help="with --seed: how long faults strike (default: drawn)")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 2, help="default: one for each core")
    given = options.parse_args()
    if given.seed is not None:
        sys.exit(tell(given.seed, given.nodes, given.faulty_s, given.story))
    seeds = itertools.count(given.first) if given.seeds is None else iter(range(given.first, given.first + given.seeds))
    sys.exit(run_many(iter(seeds), given.processes, given.minutes, given.nodes))


if __name__ == "__main__":
    main()
