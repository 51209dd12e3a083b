"""Which node a job should go to: four weeks of jobs on an unlike fleet with faults, under our placement and others'.

Everything is simulated and drawn from one seed; every policy meets the same jobs, nodes and faults. 24 nodes in three
regions, six classes of GPU whose speeds differ tenfold and a box without one, render 3 s to 10 min of video at three
sizes; some crash, are slow or hot for hours, or break half of what they get, and once a region is cut off. Demand
has days, weekends and bursts, so that queues come and go.

- `ours` is the hub's own Dispatch: jobs wait in its queue, and go to the slot where they are expected to finish first.
- `round_robin`, `random`, `least_loaded`, `two_choices` are what routers in front of such fleets do: a job is sent on
  at once to a node that has the memory for it and is connected, and waits there. So that they are not beaten for want
  of a setting that any operator would make, all of them weigh nodes by the speed of their probe clip, as with `weight=`
  in nginx or LVS: round robin is smooth weighted, random is drawn by weight, the others compare jobs on the node over
  its weight. The work that waits on a node that is lost is sent elsewhere after 30 s, as ours is.
- `late` (with --late) holds the same four rules for the choice among slots that are free, unweighted, in the place of
  ours in the hub's Dispatch: same queue, retries, breakers and memory rules. What is left is the choice alone.

Completion is from submission to the committed result, of jobs without a deadline: those with one may be dropped by
ours, and are told in `deadline_misses`. A job that is given up after three tries is submitted anew by its caller, and
its clock goes on. `wasted_gpu_s` are seconds of renders that brought nothing: broken, lost, or done after the deadline.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from bench.policies.at_once import RULES, AtOnce
from bench.policies.demand import WEEK_S, demand, fleet
from bench.policies.late import FreeSlots, Late
from bench.policies.plant import Plant, Policy
from hub.core import placement


def measure(name: str, seed: int, weeks: float, load: float) -> dict[str, float]:
    """One policy."""
    boxes = fleet(seed, weeks)
    tasks = demand(seed, weeks, load, boxes)

    def policy(plant: Plant) -> Policy:
        if name == "ours":
            return Late(plant, placement.place)
        if name.startswith("late "):
            return Late(plant, FreeSlots(name.removeprefix("late "), seed))
        return AtOnce(plant, RULES[name], seed)

    plant = Plant(boxes, tasks, policy)
    sums = plant.run()
    return sums | {"jobs": len(tasks), "utilisation": round(sums["worked_s"] / (len(boxes) * weeks * WEEK_S), 3)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1, help="what everything is drawn from (default: 1)")
    options.add_argument("--weeks", type=float, default=4.0, help="of jobs (default: 4)")
    options.add_argument(
        "--load", type=float, default=0.85, help="share of the fleet's capacity asked for (default: 0.85)"
    )
    options.add_argument("--late", action="store_true", help="also the other rules with the hub's own queue")
    given = options.parse_args()
    names = ["ours", *RULES, *(f"late {rule}" for rule in RULES if given.late)]
    with ProcessPoolExecutor(2) as pool:
        begun = {name: pool.submit(measure, name, given.seed, given.weeks, given.load) for name in names}
        found = {name: future.result() for name, future in begun.items()}
    told: dict[str, Any] = {name: found[name] for name in ("ours", *RULES)}
    if given.late:
        told["late"] = {rule: found[f"late {rule}"] for rule in RULES}
    for rule in RULES:
        told[f"p99_to_{rule}"] = round(found["ours"]["p99_s"] / found[rule]["p99_s"], 3)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
