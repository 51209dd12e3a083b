"""Where a job goes: the slot on which it is expected to finish first, be it free or busy.

A job is given away only when that slot is free. When the best slot is busy the job waits for it, and the time it will
take there is added to the slot for the jobs behind: so a slow slot gets work exactly when the queue for the fast ones
is long enough to make it worth while. (Earliest finish time first, as in HEFT: Topcuoglu, Hariri, Wu, 2002.)

    finish = when the slot is free + (inputs that are not there yet + render, at the node's own pace) / trust

Cases, in this order; the first that applies to a slot rules it out:
0. its node's session is with another hub, which is the one to give it work
1. its node is offline, draining, joining or ejected     5. its GPU has less memory than such jobs have needed
2. it has not the engine, or not in this version         6. its health is 0
3. the job must run in another region                    7. the last try ended there, and another node could take it
4. the job avoids its region, and need not run there
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from hub.core.board import Board, Key, Pool
from hub.core.decisions import PassedOver
from hub.core.forecast import NOTHING, Estimate, Forecasts, Kind
from hub.core.jobs import Job, Needs
from hub.core.nodes import Node, NodeState

NAMED_NODES = 16  # of larger fleets, decisions name kinds of nodes
ELSEWHERE_COSTS = 1.2  # outside of the regions that a job prefers
_WARM_LOOKED_AT = 16
_TEXTS_KEPT = 1024
_SOON_S = 0.2  # when a busy slot that should be free by now is expected to be

GIB = 1 << 30


class Option(NamedTuple):
    """One slot that could take the job, and when it would be done there, from now on."""

    pool: Pool
    key: Key
    free: bool
    wait_s: float
    fetch: Estimate
    render: Estimate
    warm: bool
    weight: float  # more than 1 where the job would rather not be
    work_s: float
    finish_s: float
    rank: tuple[float, bool]

    @property
    def text(self) -> str:
        traits = self.pool.traits
        return _text(
            traits.gpu_class, traits.trust, self.wait_s, self.fetch, self.render, self.warm, self.weight, self.finish_s
        )


@lru_cache(_TEXTS_KEPT)
def _text(
    gpu_class: str,
    trust: float,
    wait_s: float,
    fetch: Estimate,
    render: Estimate,
    warm: bool,
    weight: float,
    finish_s: float,
) -> str:
    """Decisions that are made together name the same over and over."""
    low_s = wait_s + (fetch.low_s + render.low_s) / trust
    high_s = wait_s + (fetch.high_s + render.high_s) / trust
    parts = [f"a slot is free in {wait_s:.1f} s" if wait_s else ""]
    parts.append(f"inputs {fetch.expected_s:.1f} s" if fetch.expected_s else "inputs are there")
    parts.append(f"render {render.expected_s:.1f} s on {gpu_class}")
    parts.append("the portrait is prepared there" if warm else "")
    parts.append(f"health {trust:.1f}" if trust < 1 else "")
    parts.append("not in a region that the job prefers" if weight > 1 else "")
    told = ", ".join(part for part in parts if part)
    return f"expected to finish in {finish_s:.1f} s ({low_s:.1f} to {high_s:.1f}): {told}"


@dataclass(frozen=True)
class Placement:
    """Where a job goes. Without a node, no slot can take it; if the slot is not free, it waits for it."""

    option: Option | None
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def node_id(self) -> str:
        return self.option.key[0] if self.option else ""

    @property
    def slot(self) -> int:
        return self.option.key[1] if self.option else -1

    @property
    def free(self) -> bool:
        return self.option is not None and self.option.free

    @property
    def reason(self) -> str:
        if self.option is None:
            return "no slot can take it"
        return self.option.text if self.option.free else f"waits for {self.node_id}: {self.option.text}"


class Round:
    """One pass over the queue at one moment: what is already promised to jobs that go first."""

    def __init__(self, board: Board, forecasts: Forecasts, now: float) -> None:
        self.board = board
        self.forecasts = forecasts
        self.now = now
        self.full: set[Needs] = set()  # no slot can take such jobs
        self.passed: set[str] = set()  # jobs that wait for a better slot
        self.able: dict[Needs, list[Pool]] = {}  # the pools that can take such jobs
        self.factors: dict[
            tuple[Needs, frozenset[str]], list[tuple[Kind, float]]
        ] = {}  # what is usual for a kind times this, for each of them, by what the job prefers too
        self._next_busy: dict[int, int] = {}  # pool -> how many of its busy slots are promised
        self._promised: dict[
            int, list[tuple[float, Key]]
        ] = {}  # pool -> heap of when its promised slots are free again

    def promise(self, option: Option) -> None:
        """The slot will do this job when it is free: those behind wait for both."""
        pool = id(option.pool)
        heap = self._promised.setdefault(pool, [])
        until = (self.now + option.finish_s, option.key)
        if heap and heap[0][1] == option.key:
            heapq.heapreplace(heap, until)
        else:
            self._next_busy[pool] = self._next_busy.get(pool, 0) + 1
            heapq.heappush(heap, until)

    def soonest_busy(self, pool: Pool) -> tuple[float, Key] | None:
        """The busy slot of the pool that is expected free first, promises counted, and when."""
        taken = self._next_busy.get(id(pool), 0)
        heap = self._promised.get(id(pool))
        first = pool.busy[taken] if taken < len(pool.busy) else None
        if heap and (first is None or heap[0] < first):
            return heap[0]
        return first


def place(job: Job, at: Round) -> Placement:
    """The slot on which the job is expected to finish first."""
    pools, barred = able_pools(job, at)
    best = min(_prepared(job, pools, barred, at), key=_rank, default=None)
    for least_s, number in _least(job, pools, at):
        if best and (least_s, False) >= best.rank:
            break  # not even a free slot that has all inputs would be sooner there
        before_s = best.rank[0] - least_s if best else math.inf
        for option in _of_pool(job, pools[number], barred, at, before_s):
            if best is None or option.rank < best.rank:
                best = option
    return Placement(best)


def options(job: Job, at: Round) -> Iterator[Option]:
    """The best slots of every pool that can take the job, and those of nodes that have its portrait."""
    pools, barred = able_pools(job, at)
    for pool in pools:
        yield from _of_pool(job, pool, barred, at)
    yield from _prepared(job, pools, barred, at)


def able_pools(job: Job, at: Round) -> tuple[list[Pool], str]:
    """The pools that can take the job, and the node that may not, as its last try ended there."""
    pools = at.able.get(job.needs)
    if pools is None:
        pools = [pool for pool in at.board.pools(job.requirement) if not _pool_problem(job, pool, at)]
        calm = [pool for pool in pools if pool.traits.region not in job.regions.avoid] or pools
        pools = at.able[job.needs] = [pool for pool in calm if not _crowded(job, pool, at)] or calm
    barred = job.attempt and (
        any(_has_others(pool, job.node_id) for pool in pools) or at.board.others_could(job.requirement, job.node_id)
    )
    return pools, job.node_id if barred else ""


def _of_pool(job: Job, pool: Pool, barred: str, at: Round, within_s: float = math.inf) -> Iterator[Option]:
    """The slot that is free, and the one that is free next if that is soon enough."""
    if key := next((key for key in islice(pool.free, 4096) if key[0] != barred), None):
        yield _option(job, pool, key, True, 0.0, at)
    soonest = at.soonest_busy(pool)
    if soonest and soonest[1][0] != barred and (wait_s := _wait_s(soonest[0], at.now)) <= within_s:
        yield _option(job, pool, soonest[1], False, wait_s, at)


def _prepared(job: Job, pools: list[Pool], barred: str, at: Round) -> Iterator[Option]:
    """Free slots of nodes that have the portrait."""
    for node_id in islice(at.board.having(job.inputs[0].sha256) if job.inputs else (), _WARM_LOOKED_AT):
        seen: list[Pool] = []
        for index, (pool, busy_until_s) in at.board.slots_of(node_id).items():
            if node_id != barred and busy_until_s is None and pool in pools and pool not in seen:
                seen.append(pool)  # to the job, its others of the node are the same
                yield _option(job, pool, (node_id, index), True, 0.0, at)


def _rank(option: Option) -> tuple[float, bool]:
    return option.rank


def _least(job: Job, pools: list[Pool], at: Round) -> list[tuple[float, int]]:
    """The best that any option of each pool could do, and the pool's number; the best first."""
    wishes = (job.needs, job.regions.prefer)
    factors = at.factors.get(wishes)
    if factors is None:
        factors = at.factors[wishes] = [
            (_kind(job, pool), pool.traits.pace / pool.traits.trust * _weight(job, pool)) for pool in pools
        ]
    warm = bool(job.inputs) and bool(at.board.having(job.inputs[0].sha256))
    usual_s = {kind: at.forecasts.render(kind, "", job.work, warm).expected_s for kind in {kind for kind, _ in factors}}
    return sorted((usual_s[kind] * factor, number) for number, (kind, factor) in enumerate(factors))


def forecast(job: Job, pool: Pool, node_id: str, board: Board, forecasts: Forecasts) -> tuple[Estimate, Estimate, bool]:
    """Fetching the inputs, then rendering, on a node of a pool; and whether it has the portrait prepared."""
    missing = sum(item.size_bytes for item in job.inputs if node_id not in board.having(item.sha256))
    warm = bool(job.inputs) and node_id in board.having(job.inputs[0].sha256)
    fetch = forecasts.transfer(node_id, missing) if missing else NOTHING
    render = forecasts.render(_kind(job, pool), "", job.work, warm)
    return fetch, render.scaled(pool.traits.pace), warm


def explain(job: Job, chosen: Option | None, nodes: Iterable[Node], at: Round) -> tuple[PassedOver, ...]:
    """Why not each of the other nodes."""
    found = [_why_not(job, node, chosen, at) for node in nodes if not chosen or node.node_id != chosen.key[0]]
    return tuple(sorted(found, key=lambda passed: (passed.finish_s == 0, passed.finish_s, passed.node_id)))


def summarise(job: Job, chosen: Option | None, nodes: dict[NodeState, int], at: Round) -> tuple[PassedOver, ...]:
    """Why not the others, kind by kind, where they are too many to be named. `nodes` counts those not usable."""
    found = [PassedOver("", f"{state}", count) for state, count in nodes.items() if count]
    pools = set(at.board.pools(job.requirement))
    for pool in at.board.all_pools():
        count = len(pool) - (chosen is not None and chosen.pool is pool)
        problem = _pool_problem(job, pool, at) if pool in pools else _no_engine(job)
        if problem:
            found.append(PassedOver("", f"{_named(pool)}: {problem}", count))
        elif count:
            best = _best_of(job, pool, at)
            found.append(PassedOver("", f"{_named(pool)}: {best.text}", count, best.finish_s))
    return tuple(sorted(found, key=lambda passed: (passed.finish_s == 0, passed.finish_s))[: 2 * NAMED_NODES])


def _best_of(job: Job, pool: Pool, at: Round) -> Option:
    """The best slot of one pool, which has some."""
    best = _option(job, pool, next(iter(pool.free)), True, 0.0, at) if pool.free else None
    if (soonest := at.soonest_busy(pool)) and (not best or _wait_s(soonest[0], at.now) < best.finish_s):
        busy = _option(job, pool, soonest[1], False, _wait_s(soonest[0], at.now), at)
        best = min(best or busy, busy, key=_rank)
    assert best
    return best


def _option(job: Job, pool: Pool, key: Key, free: bool, wait_s: float, at: Round) -> Option:
    fetch, render, warm = forecast(job, pool, key[0], at.board, at.forecasts)
    weight = _weight(job, pool)
    work_s = (fetch.expected_s + render.expected_s) / pool.traits.trust
    finish_s = wait_s + work_s
    rank = (finish_s * weight, not free)
    return Option(pool, key, free, wait_s, fetch, render, warm, weight, work_s, finish_s, rank)


def _kind(job: Job, pool: Pool) -> Kind:
    offer = pool.offer(job.requirement)
    assert offer
    return Kind(offer.engine, offer.model_version, pool.traits.gpu_class)


def _weight(job: Job, pool: Pool) -> float:
    return 1.0 if not job.regions.prefer or pool.traits.region in job.regions.prefer else ELSEWHERE_COSTS


def _wait_s(free_at_s: float, now: float) -> float:
    return max(free_at_s - now, _SOON_S)


def _has_others(pool: Pool, node_id: str) -> bool:
    return any(key[0] != node_id for key in pool.free) or any(key[0] != node_id for _, key in pool.busy)


def _pool_problem(job: Job, pool: Pool, at: Round) -> str:
    traits = pool.traits
    if job.regions.require and traits.region not in job.regions.require:
        return f"is in {traits.region}; the job must run in {', '.join(sorted(job.regions.require))}"
    offer = pool.offer(job.requirement)
    assert offer
    needs = at.forecasts.memory_at_least(offer.engine, offer.model_version, job.work)
    if traits.memory_bytes and needs > traits.memory_bytes:
        return f"its {traits.memory_bytes / GIB:.0f} GiB are less than the {needs / GIB:.1f} GiB that such jobs need"
    return "" if traits.trust_steps else "its health is 0"


def _crowded(job: Job, pool: Pool, at: Round) -> bool:
    """Its memory may not be enough: no place for the job while there is another, but better than to wait for ever."""
    offer = pool.offer(job.requirement)
    assert offer
    needs = at.forecasts.memory(offer.engine, offer.model_version, job.work)
    return 0 < pool.traits.memory_bytes < needs


def _no_engine(job: Job) -> str:
    version = job.requirement.model_version
    return f"has no engine {job.requirement.engine}{f' at {version}' if version else ''}"


def _named(pool: Pool) -> str:
    return f"{pool.traits.gpu_class} in {pool.traits.region}"


def _why_not(job: Job, node: Node, chosen: Option | None, at: Round) -> PassedOver:
    state, why = node.state
    if node.hub_id:
        return PassedOver(node.node_id, why)
    if state not in (NodeState.READY, NodeState.DEGRADED):
        return PassedOver(node.node_id, f"{state}: {why}")
    if not any(slot.offer(job.requirement) for slot in node.slots.values()):
        return PassedOver(node.node_id, _no_engine(job))
    slots = [(index, *filed) for index, filed in at.board.slots_of(node.node_id).items()]
    able = [(index, pool, until) for index, pool, until in slots if pool.offer(job.requirement)]
    able = list({pool: (index, pool, until) for index, pool, until in sorted(able, key=_free_last)}.values())
    if not able:
        return PassedOver(node.node_id, f"no slot is ready: {why}" if why else "no slot is ready")
    if problem := next((problem for _, pool, _ in able if (problem := _pool_problem(job, pool, at))), ""):
        return PassedOver(node.node_id, problem)
    best = min((_here(job, node, *slot, at) for slot in able), key=lambda option: option.rank)
    if job.attempt and node.node_id == job.node_id:
        return PassedOver(node.node_id, "the last try ended here", 1, best.finish_s)
    if node.region in job.regions.avoid:
        return PassedOver(node.node_id, f"the job avoids {node.region}", 1, best.finish_s)
    as_good = chosen is not None and best.free and abs(best.finish_s - chosen.finish_s) < 0.05
    return PassedOver(node.node_id, f"{'as good: ' if as_good else ''}{best.text}", 1, best.finish_s)


def _free_last(slot: tuple[int, Pool, float | None]) -> float:
    return -slot[2] if slot[2] is not None else math.inf


def _here(job: Job, node: Node, index: int, pool: Pool, until_s: float | None, at: Round) -> Option:
    wait_s = 0.0 if until_s is None else _wait_s(until_s, at.now)
    return _option(job, pool, (node.node_id, index), until_s is None, wait_s, at)
