"""Filters of the rollout: what is computed from what the hub and the boxes say. They decide nothing by themselves."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

CANARIES = 1
SHARES = (0.1, 0.5, 1.0)


def waves(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The order of an upgrade: region after region, each with one canary, then up to 10 %, 50 % and all its boxes."""
    regions: dict[str, list[str]] = defaultdict(list)
    for host in hosts:
        facts = hostvars.get(host, {})  # `--syntax-check` knows nothing of hosts
        regions[str(facts.get("sonic_agent_region", ""))].append(host)
    found = []
    for region in sorted(regions):
        left = regions[region]
        sizes = [CANARIES, *(math.ceil(share * len(left)) for share in SHARES)]
        done = 0
        for size in sizes:
            if size > done:
                found.append(left[done:size])
                done = size
    return found


def usual_drivers(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], region: str, gpu: str) -> list[str]:
    """What most boxes of a region with this GPU say, "NAME, DRIVER"; nothing where no more than half agree.

    `gpu` is what one box says. Raises ValueError when it is of another form.
    """
    name, _, _driver = gpu.partition(", ")
    said: Counter[str] = Counter()
    for host in hosts:
        facts = hostvars[host]
        if facts.get("sonic_agent_region") == region:
            said.update({line for line in facts.get("sonic_agent_gpus", ()) if line.partition(", ")[0] == name})
    return [line for line, count in said.items() if 2 * count > said.total()]


def alike(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], host: str) -> list[str]:
    """The node ids of the other boxes of its region with the same GPUs."""
    own = hostvars[host]
    wanted = (own.get("sonic_agent_region"), _models(own))
    others = [hostvars[other] for other in hosts if other != host]
    return [
        str(facts.get("sonic_agent_node_id", facts.get("inventory_hostname")))
        for facts in others
        if (facts.get("sonic_agent_region"), _models(facts)) == wanted
    ]


def not_passed(hostvars: Mapping[str, Mapping[str, Any]], wave: Iterable[str]) -> list[str]:
    """The boxes of a wave that neither ran the release before nor have passed with it."""
    return [
        host
        for host in wave
        if "sonic_why_not" in hostvars[host]
        or (hostvars[host].get("sonic_agent_touched") and not hostvars[host].get("sonic_agent_passed"))
    ]


def not_reached(hostvars: Mapping[str, Mapping[str, Any]], wave: Iterable[str]) -> list[str]:
    """The boxes of a wave that did not answer when it ended."""
    return [host for host in wave if hostvars[host].get("sonic_reached", {}).get("unreachable")]


def paces(jobs: Iterable[Mapping[str, Any]], nodes: Sequence[str], since: float = 0) -> list[list[Any]]:
    """[kind, pace] of each render on one of these nodes that began after a time (Unix seconds).

    The pace is seconds of work per second of video. Renders of one kind can be compared: the same engine and size, with
    a portrait that was, or was not, prepared before. `jobs` are those of `sonic jobs list --json`.
    """
    found = []
    for job in jobs:
        last = (job.get("attempts") or [{}])[-1]
        report = job.get("report") or {}
        if (
            last.get("node_id") not in nodes
            or not report.get("video_seconds")
            or report.get("resumed_from", "0") != "0"
        ):
            continue
        began = _seconds(last.get("started_at"))
        if began is None or began < since:
            continue
        kind = (report["engine"], report["width"], report["height"], report["portrait_was_prepared"])
        work_s = sum(stage["seconds"] for stage in report["stages"])
        found.append([kind, work_s / report["video_seconds"]])
    return found


def slowdown(after: Iterable[Sequence[Any]], before: Iterable[Sequence[Any]]) -> float:
    """How many times as long renders take as before: the median over all that can be compared; 0 where none can."""
    usual: dict[Any, list[float]] = defaultdict(list)
    for kind, pace in before:
        usual[tuple(kind)].append(pace)
    ratios = [pace / median(usual[tuple(kind)]) for kind, pace in after if usual.get(tuple(kind))]
    return round(median(ratios), 3) if ratios else 0.0


def fastest(results: Iterable[Mapping[str, Any]]) -> float:
    """The best realtime factor among results of `python -m sonic_runtime.golden`; 0 when none of them is right."""
    right = [json.loads(result["stdout"])["realtime_factor"] for result in results if result["rc"] == 0]
    return max(right, default=0.0)


def _models(facts: Mapping[str, Any]) -> list[str]:
    return [line.partition(", ")[0] for line in facts.get("sonic_agent_gpus", ())]


def _seconds(stamp: str | None) -> float | None:
    if not stamp:
        return None
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"waves": waves, "usual_drivers": usual_drivers, "alike": alike, "not_passed": not_passed} | {
            "not_reached": not_reached,
            "paces": paces,
            "slowdown": slowdown,
            "fastest": fastest,
        }
