"""Inputs that break different nodes are the cause: their job ends, and the nodes get their faults taken back.

What counts, and why:
- The suspect is a portrait with a voice on an engine. Neither file is suspected alone: either may render well with
  another.
- Faults that a worker died or went wrong by (crash, device, timeout, broken output, internal) are witnesses. Two
  different nodes convict.
- Out of memory and a node lost while rendering have other ready causes (a small GPU, a power cut), so they convict only
  beside a witness of the first kind, or from three nodes; and only those that one job has met in turn, as whatever
  takes many nodes at once takes many jobs.
- A node that breaks on unrelated inputs, and renders nothing well in between, is no witness to any of them: an ill node
  or a bad release breaks on everything, and must not be excused by its victims. Inputs that share a file are related.
- Inputs that anybody has rendered are not guilty, whatever came before.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import NamedTuple

from hub.core.faults import Failure, Fault, Problem

_STRONG = frozenset({Fault.CRASH, Fault.DEVICE, Fault.TIMEOUT, Fault.BROKEN_OUTPUT, Fault.INTERNAL})
_WEAK = frozenset({Fault.OUT_OF_MEMORY, Fault.NODE_LOST})
_NODES, _NODES_IF_WEAK = 2, 3
_KEPT_S = 6 * 3600.0
_KEPT, _WITNESSES_KEPT = 4096, 16


class Inputs(NamedTuple):
    """What was to be rendered, by what."""

    portrait_sha256: str
    voice_sha256: str
    engine: str


@dataclass(frozen=True)
class Witness:
    """A node that broke on the inputs, in a try of a job."""

    node_id: str
    job_id: str
    fault: Fault


@dataclass(frozen=True)
class Conviction:
    """The inputs are the cause. The breaker of each witness's node is to forgive the witness's job."""

    witnesses: tuple[Witness, ...]
    failure: Failure


class Quarantine:
    """Remembers which inputs broke which nodes, for some hours."""

    def __init__(self) -> None:
        self._cases: OrderedDict[Inputs, deque[tuple[float, Witness]]] = OrderedDict()
        self._broke_on: dict[str, Inputs | None] = {}  # what a node broke on since it last rendered; None: on anything
        self._doubted_s: dict[str, float] = {}  # until when what a node says is no testimony

    def failed(self, now: float, inputs: Inputs, witness: Witness, rendering: bool) -> Conviction | None:
        """An attempt failed, `rendering` or before. Answers when the inputs are found to be the cause."""
        if witness.fault not in _STRONG | _WEAK or (witness.fault is Fault.NODE_LOST and not rendering):
            return None
        self._doubt(now, witness.node_id, inputs)
        self._cases.setdefault(inputs, deque(maxlen=_WITNESSES_KEPT)).append((now, witness))
        self._cases.move_to_end(inputs)
        if len(self._cases) > _KEPT:
            self._cases.popitem(last=False)
        return self.conviction(now, inputs)

    def rendered(self, inputs: Inputs, node_id: str) -> None:
        """A node has rendered the inputs: neither can be wholly bad."""
        self._cases.pop(inputs, None)
        self._broke_on.pop(node_id, None)

    def conviction(self, now: float, inputs: Inputs) -> Conviction | None:
        """Why these inputs are not to be tried again; None when they may be."""
        witnesses = [
            witness
            for at_s, witness in self._cases.get(inputs, ())
            if now - at_s <= _KEPT_S and at_s > self._doubted_s.get(witness.node_id, -math.inf)
        ]
        strong = [witness for witness in witnesses if witness.fault in _STRONG]
        crashed = {witness.job_id for witness in strong}
        for job_id in {witness.job_id for witness in witnesses}:
            counted = strong if job_id in crashed else []
            nodes = {witness.node_id for witness in witnesses if witness.job_id == job_id or witness in counted}
            if len(nodes) >= (_NODES if counted else _NODES_IF_WEAK):
                return Conviction(tuple(witnesses), _failure(witnesses))
        return None

    def _doubt(self, now: float, node_id: str, inputs: Inputs) -> None:
        first = self._broke_on.setdefault(node_id, inputs)
        if first is None or not _related(first, inputs):
            self._broke_on[node_id] = None
            self._doubted_s[node_id] = now


def _related(one: Inputs, other: Inputs) -> bool:
    return one.portrait_sha256 == other.portrait_sha256 or one.voice_sha256 == other.voice_sha256


def _failure(witnesses: list[Witness]) -> Failure:
    broke = {witness.node_id: witness.fault.name for witness in witnesses}
    message = (
        f"this portrait with this voice broke {len(broke)} different nodes: "
        f"{', '.join(f'{node_id} ({fault})' for node_id, fault in broke.items())}; "
        "they are not tried again for some hours. Re-encode both files, or try either with another"
    )
    problem = "breaks the renderer together with the other; re-encode it"
    return Failure(
        Fault.BAD_INPUT, "INPUT_QUARANTINED", message, (Problem("portrait", problem), Problem("voice", problem))
    )
