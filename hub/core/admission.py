"""What no node of the fleet could ever run is refused at the door, with the nearest change that would make it fit.

Each case that applies is named; those of the last two lines only where the others leave a node:
1. no node has the engine                      2. no node that has it, at the model version
3. no node is in a required region             4. no node that is, has the engine
5. every device has less memory than videos of this size were seen to take
6. even the fastest node, idle and with luck, would end after the deadline
A node counts by what it could do when last seen, however long ago; one of which that is not known could do anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from hub.core.faults import Problem
from hub.core.forecast import Estimate, Forecasts, Kind
from hub.core.jobs import Job, Requirement, Work
from hub.core.nodes import Node

_SIDE_STEP_PX = 64
_LEAST_SIDE_PX = 256
_NAMED_AT_MOST = 8
_GIB = 1 << 30
_MAX_KEPT = 1024
_FASTEST_FOR_S = 10.0


@dataclass(frozen=True)
class Capability:
    """What a node can do, or could when it was last seen. A node with unlike slots is told by one for each kind."""

    node_id: str
    region: str
    online: bool
    offers: tuple[Requirement, ...] | None = None  # None when not known yet
    gpu_class: str = ""
    memory_bytes: int = 0  # of the device; 0 when not known


@dataclass(frozen=True)
class Caution:
    """Worth knowing of a job that is admitted."""

    reason: str  # UPPER_SNAKE_CASE and stable
    message: str


@dataclass(frozen=True)
class Refused:
    """No node could ever run it."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Admitted:
    """Some node could run it, sooner or later."""

    cautions: tuple[Caution, ...] = ()


class _Like(NamedTuple):
    """Nodes that can do the same."""

    region: str
    offers: tuple[Requirement, ...] | None
    gpu_class: str
    memory_bytes: int


class _Option(NamedTuple):
    """One way to run a job; `engine` is None where it is not known what the nodes can do."""

    like: _Like
    engine: Requirement | None


def capabilities(node: Node) -> Iterator[Capability]:
    """What a node can do, told once for each kind of slot."""
    offering = [slot for slot in node.slots.values() if slot.engines]
    for slot in offering:
        gpu = node.gpu_of(slot)
        memory_bytes = gpu.memory_bytes if gpu else 0
        gpu_class = node.gpu_class(slot)
        yield Capability(node.node_id, node.region, node.online, slot.engines, gpu_class, memory_bytes)
    if not offering:
        yield Capability(node.node_id, node.region, node.online)


class Fleet:
    """All nodes ever seen, in groups of those that can do the same; to be made anew when one changes."""

    def __init__(self, nodes: Iterable[Capability]) -> None:
        self.groups: defaultdict[_Like, list[str]] = defaultdict(list)
        self.online: set[_Like] = set()
        for node in nodes:
            like = _Like(node.region, node.offers, node.gpu_class, node.memory_bytes)
            self.groups[like].append(node.node_id)
            if node.online:
                self.online.add(like)
        self.regions = {like.region for like in self.groups}
        self.engines = {offer for like in self.groups for offer in like.offers or ()}
        self._options: dict[tuple[Requirement, frozenset[str]], list[_Option]] = {}
        self._fastest: dict[tuple[_Like, Kind], tuple[float, str]] = {}

    def options(self, wanted: Requirement, regions: frozenset[str]) -> list[_Option]:
        """The ways to run such jobs in these regions, or in any when there are none."""
        key = (wanted, regions)
        if key not in self._options:
            if len(self._options) >= _MAX_KEPT:
                self._options.clear()
            there = [like for like in self.groups if not regions or like.region in regions]
            self._options[key] = [option for like in there for option in _options(like, wanted)]
        return self._options[key]

    def fastest(self, like: _Like, kind: Kind, forecasts: Forecasts, now: float) -> str:
        """The node of a group that has been fastest of late."""
        found_at_s, node_id = self._fastest.get((like, kind), (-math.inf, ""))
        if now - found_at_s > _FASTEST_FOR_S:
            node_id = min(self.groups[like], key=lambda node_id: forecasts.ratio(kind, node_id))
            self._fastest[like, kind] = (now, node_id)
        return node_id


def admit(job: Job, fleet: Fleet, forecasts: Forecasts, now: float) -> Refused | Admitted:
    """Judge a job before it is stored."""
    if not fleet.groups:
        message = "no node has ever joined this hub; the job waits for one that can run it"
        return Admitted((Caution("NO_NODES_YET", message),))
    there = fleet.options(job.requirement, job.regions.require)
    if there:
        problems = _memory_problems(job, there, forecasts) + _deadline_problems(job, there, fleet, forecasts, now)
    else:
        able = fleet.options(job.requirement, frozenset())
        problems = _engine_problems(job.requirement, fleet, able) + _region_problems(job.regions.require, fleet)
        problems = problems or [_elsewhere(job, able)]
    if problems:
        return Refused(tuple(problems))
    if any(option.like in fleet.online and _fits(option, job.work, forecasts) for option in there):
        return Admitted()
    message = "every node that could run it is away at the moment; the job waits for one of them"
    return Admitted((Caution("NODES_AWAY", message),))


def _options(like: _Like, wanted: Requirement) -> Iterator[_Option]:
    if like.offers is None:
        yield _Option(like, None)
        return
    for offer in like.offers:
        if offer.engine == wanted.engine and wanted.model_version in ("", offer.model_version):
            yield _Option(like, offer)


def _engine_problems(wanted: Requirement, fleet: Fleet, able: list[_Option]) -> list[Problem]:
    if able:
        return []
    engines = {offer.engine for offer in fleet.engines}
    if wanted.engine not in engines:
        what = f"is {wanted.engine!r}, which no node of the fleet has; {_choose(wanted.engine, engines)}"
        return [Problem("spec.engine", what)]
    versions = {offer.model_version for offer in fleet.engines if offer.engine == wanted.engine}
    near = _choose(wanted.model_version, versions)
    what = f"is {wanted.model_version!r}, at which no node has engine {wanted.engine}; {near}, or leave it out for any"
    return [Problem("spec.model_version", what)]


def _region_problems(required: frozenset[str], fleet: Fleet) -> list[Problem]:
    if not required or required & fleet.regions:
        return []
    near = _choose(min(required), fleet.regions)
    return [Problem("spec.regions.require", f"is {_list(required)}, where no node has ever been; {near}")]


def _elsewhere(job: Job, able: list[_Option]) -> Problem:
    what = " ".join(job.requirement).strip()
    regions = {option.like.region for option in able}
    required = _list(job.regions.require)
    return Problem("spec.regions.require", f"is {required}, where no node has {what}; {_choose('', regions)}")


def _memory_problems(job: Job, options: list[_Option], forecasts: Forecasts) -> list[Problem]:
    if any(_fits(option, job.work, forecasts) for option in options):
        return []
    largest = max(options, key=lambda option: option.like.memory_bytes)
    assert largest.engine
    needs = forecasts.memory_at_least(*largest.engine, job.work)
    smaller = (job.work.side_px - 1) // _SIDE_STEP_PX * _SIDE_STEP_PX
    sides = range(smaller, _LEAST_SIDE_PX - 1, -_SIDE_STEP_PX)
    fitting = (
        side for side in sides if any(_fits(o, job.work._replace(side_px=side), forecasts, True) for o in options)
    )
    side_px = next(fitting, 0)
    advice = f"choose {side_px} or less" if side_px else "no smaller size would fit either; use another engine"
    engine = " ".join(largest.engine).strip()
    what = (
        f"is {job.work.side_px} pixels, for which {engine} takes {needs / _GIB:.1f} GiB of memory; "
        f"the largest device that may run it has {largest.like.memory_bytes / _GIB:.1f} GiB; {advice}"
    )
    return [Problem("spec.parameters.min_resolution", what)]


def _fits(option: _Option, work: Work, forecasts: Forecasts, surely: bool = False) -> bool:
    if option.engine is None or not option.like.memory_bytes:
        return True
    needs = forecasts.memory if surely else forecasts.memory_at_least
    return needs(*option.engine, work) <= option.like.memory_bytes


def _deadline_problems(
    job: Job, options: list[_Option], fleet: Fleet, forecasts: Forecasts, now: float
) -> list[Problem]:
    """Against the best that could be: an idle slot, the portrait prepared, the inputs there, and luck."""
    if math.isinf(job.deadline_s):
        return []
    estimates: list[Estimate] = []
    for like, engine in options:
        if engine is None or not forecasts.knows(kind := Kind(*engine, like.gpu_class)):
            return []
        estimates.append(forecasts.render(kind, fleet.fastest(like, kind, forecasts, now), job.work, True))
    best = min(estimates, key=lambda estimate: estimate.low_s)
    left_s = job.deadline_s - now
    if left_s >= best.low_s:
        return []
    what = (
        f"is {left_s:.0f} s from now, and the fastest node, were it idle, would need {best.expected_s:.0f} s "
        f"({best.low_s:.0f} to {best.high_s:.0f}); allow at least {best.high_s:.0f} s"
    )
    return [Problem("spec.deadline", what)]


def _choose(name: str, known: Collection[str]) -> str:
    if close := get_close_matches(name, known, 1):
        return f"did you mean {close[0]!r}?" if len(known) == 1 else f"the nearest is {close[0]!r}, of {_list(known)}"
    return f"choose from {_list(known)}" if known else "no node has any"


def _list(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:_NAMED_AT_MOST])
    return shown + (f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else "")
