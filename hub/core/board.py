"""Slots in pools of their like, so that a choice among ten thousand slots looks at some dozens of pools.

All slots of a pool are alike to every job: same region, engines, class of GPU and memory, and, in steps of a tenth, the
same pace and trust. Within a pool only the time differs at which a slot is free.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from hub.core.jobs import Requirement
from hub.core.nodes import Node, NodeState, Slot, SlotState

_UNKNOWN_BUSY_S = 5.0  # what a slot is expected to be busy with something that the hub did not give it
_STEP = math.log(1.1)
_TRUST_STEPS = 10

Key = tuple[str, int]  # node_id, slot index


class Traits(NamedTuple):
    """What the slots of one pool have in common."""

    region: str
    offers: tuple[Requirement, ...]
    gpu_class: str
    memory_bytes: int  # of its GPU; 0 when not known
    pace_steps: int  # how much slower than its class, in tenths upon each other
    trust_steps: int  # its health, in tenths

    @property
    def pace(self) -> float:
        """Seconds of work here for a second of work of the class."""
        return math.exp(self.pace_steps * _STEP)

    @property
    def trust(self) -> float:
        return self.trust_steps / _TRUST_STEPS


@dataclass(eq=False)  # a pool is itself
class Pool:
    """Slots that are alike: the free ones, the longest idle first, and the busy ones by when they are expected free."""

    traits: Traits
    free: dict[Key, None] = field(default_factory=dict)
    busy: list[tuple[float, Key]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.free) + len(self.busy)

    def offer(self, wanted: Requirement) -> Requirement | None:
        """The engine and its version that would do the work, if the pool has it."""
        for has in self.traits.offers:
            if has.engine == wanted.engine and wanted.model_version in ("", has.model_version):
                return has
        return None


class _Filed(NamedTuple):
    pool: Pool
    busy_until_s: float | None


class Board:
    """Every usable slot. `pace` tells how a node's slot compares to its class."""

    def __init__(self, pace: Callable[[Node, Slot], float]) -> None:
        self._pace = pace
        self._pools: dict[Traits, Pool] = {}
        self._by_requirement: dict[Requirement, list[Pool]] = {}
        self._filed: dict[str, dict[int, _Filed]] = {}
        self._having: dict[str, dict[str, None]] = {}  # input -> the nodes that have it
        self._unusable: dict[str, NodeState] = {}  # nodes that get no work
        self._elsewhere: dict[str, Node] = {}  # nodes that other hubs give work to
        self.free: dict[Key, None] = {}
        self.made = 0  # pools, ever
        self.fresh: dict[Key, None] = {}  # free since whoever looks at them cleared this
        self.unusable: Counter[NodeState] = Counter()

    def file(self, node: Node, now: float) -> None:
        """Put a node's slots where they belong now. To be called whenever anything of the node has changed."""
        state = node.state[0]
        usable = node.here and state in (NodeState.READY, NodeState.DEGRADED)
        self._count(node.node_id, None if usable else state)
        self._elsewhere.pop(node.node_id, None)
        if node.hub_id and state in (NodeState.READY, NodeState.DEGRADED):
            self._elsewhere[node.node_id] = node
        before = self._filed.get(node.node_id, {})
        after: dict[int, _Filed] = {}
        alike: dict[tuple[tuple[Requirement, ...], str], Pool] = {}
        for slot in node.slots.values() if usable else ():
            if (
                slot.engines
                and slot.state in (SlotState.READY, SlotState.BUSY)
                and not (node.out and node.part_of(slot.index) in node.out)
            ):
                kind = (slot.engines, slot.gpu_uuid)
                if kind not in alike:
                    alike[kind] = self._pool(self._traits(node, slot))
                after[slot.index] = _Filed(alike[kind], _busy_until_s(node, slot, now))
        if before == after:
            return
        for index, filed in before.items():
            if after.get(index) != filed:
                self._take_out((node.node_id, index), filed)
        for index, filed in after.items():
            if before.get(index) != filed:
                self._put_in((node.node_id, index), filed)
        self._filed[node.node_id] = after

    def pools(self, wanted: Requirement) -> list[Pool]:
        """The pools with an engine that does the work."""
        found = self._by_requirement.get(wanted)
        if found is None:
            found = [pool for pool in self._pools.values() if pool.offer(wanted)]
            self._by_requirement[wanted] = found
        return found

    def all_pools(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def slots_of(self, node_id: str) -> dict[int, tuple[Pool, float | None]]:
        """A node's usable slots: their pool, and until when they are busy."""
        return {i: (filed.pool, filed.busy_until_s) for i, filed in self._filed.get(node_id, {}).items()}

    def others_could(self, wanted: Requirement, but_for: str) -> bool:
        """Whether another hub has a node that does the work, beside one."""
        nodes = (node for node in self._elsewhere.values() if node.node_id != but_for)
        return any(slot.offer(wanted) for node in nodes for slot in node.slots.values())

    def overdue(self, now: float) -> list[Key]:
        """The busy slots that should be free by now."""
        return [key for pool in self._pools.values() for _, key in takewhile(lambda entry: entry[0] <= now, pool.busy)]

    def having(self, sha256: str) -> dict[str, None]:
        """The nodes that have an input, in the order in which they got it: choices must not hang on chance."""
        return self._having.get(sha256, {})

    def note_inputs(self, node: Node, hashes: tuple[str, ...]) -> None:
        """A node has these inputs now."""
        for sha256 in node.remember(hashes):
            self.having(sha256).pop(node.node_id, None)
            if not self._having.get(sha256):
                self._having.pop(sha256, None)
        for sha256 in hashes:
            self._having.setdefault(sha256, {})[node.node_id] = None

    def _count(self, node_id: str, state: NodeState | None) -> None:
        before = self._unusable.pop(node_id, None)
        if before:
            self.unusable[before] -= 1
        if state:
            self._unusable[node_id] = state
            self.unusable[state] += 1

    def _traits(self, node: Node, slot: Slot) -> Traits:
        gpu = node.gpu_of(slot)
        trust = node.trust.get(gpu.uuid if gpu else "", 1.0)
        return Traits(
            region=node.region,
            offers=slot.engines,
            gpu_class=node.gpu_class(slot),
            memory_bytes=gpu.memory_bytes if gpu else 0,
            pace_steps=round(math.log(self._pace(node, slot)) / _STEP),
            trust_steps=max(round(trust * _TRUST_STEPS), 1),  # to give nothing is for breakers
        )

    def _pool(self, traits: Traits) -> Pool:
        pool = self._pools.get(traits)
        if pool is None:
            pool = self._pools[traits] = Pool(traits)
            self.made += 1
            self._by_requirement.clear()
        return pool

    def _put_in(self, key: Key, filed: _Filed) -> None:
        self._pools.setdefault(filed.pool.traits, filed.pool)
        if filed.busy_until_s is None:
            filed.pool.free[key] = None
            self.free[key] = self.fresh[key] = None
        else:
            insort(filed.pool.busy, (filed.busy_until_s, key))

    def _take_out(self, key: Key, filed: _Filed) -> None:
        if filed.busy_until_s is None:
            del filed.pool.free[key]
            del self.free[key]
            self.fresh.pop(key, None)
        else:
            del filed.pool.busy[bisect_left(filed.pool.busy, (filed.busy_until_s, key))]
        if not filed.pool:
            self._pools.pop(filed.pool.traits, None)
            self._by_requirement.clear()


def _busy_until_s(node: Node, slot: Slot, now: float) -> float | None:
    ends = [busy.ends_at_s or busy.since_s + _UNKNOWN_BUSY_S for busy in node.busy.values() if busy.slot == slot.index]
    if ends:
        return max(ends)
    return None if slot.state is SlotState.READY else now + _UNKNOWN_BUSY_S
