"""Where a job goes: one function over plain state that returns its choice and its reasons.

Cases, in this order; the first that applies to a node passes it over:
0. its session is with another hub, which is the one to give it work
1. offline                          4. no slot has the engine (or its model version)
2. draining                         5. no slot that has it is free
3. not ready yet                    6. it is where the job's last try failed, and another node could take it
What remains competes: the fastest slot by its probe clip wins, then the node with fewer busy slots, then the name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hub.core.jobs import Job
from hub.core.nodes import Node, NodeState, Slot, SlotState


@dataclass(frozen=True)
class PassedOver:
    """A node that was not chosen, and why."""

    node_id: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """Where a job goes. `node_id` is empty when no node can take it now."""

    node_id: str
    slot: int
    reason: str
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True)
class _Candidate:
    node: Node
    slot: Slot

    @property
    def rank(self) -> tuple[float, int, str, int]:
        return (-self.slot.realtime_factor, len(self.node.busy), self.node.node_id, self.slot.index)


def place(job: Job, nodes: Iterable[Node]) -> Placement:
    """Choose a slot for the job, or say why every node was passed over."""
    nodes = list(nodes)
    candidates: list[_Candidate] = []
    passed: list[PassedOver] = []
    elsewhere = any(_able(node, job) and node.node_id != job.node_id for node in nodes)
    for node in nodes:
        slot, reason = _offer(node, job, elsewhere)
        if slot:
            candidates.append(_Candidate(node, slot))
        else:
            passed.append(PassedOver(node.node_id, reason))
    if not candidates:
        return Placement("", -1, "no node can take it now", tuple(passed))
    candidates.sort(key=lambda candidate: candidate.rank)
    best, rest = candidates[0], candidates[1:]
    passed += [PassedOver(other.node.node_id, _slower(other, best)) for other in rest]
    speed = best.slot.realtime_factor
    reason = f"fastest free slot ({speed:.1f} x realtime on its probe clip)" if speed else "free slot"
    return Placement(best.node.node_id, best.slot.index, reason, tuple(passed))


def _able(node: Node, job: Job) -> bool:
    """Could take it sooner or later."""
    usable = node.state[0] in (NodeState.READY, NodeState.DEGRADED)
    return usable and any(slot.offers(job.requirement) for slot in node.slots.values())


def _offer(node: Node, job: Job, elsewhere: bool) -> tuple[Slot | None, str]:
    state, why = node.state
    if node.hub_id:
        return None, why
    if state not in (NodeState.READY, NodeState.DEGRADED):
        return None, f"{state}: {why}"
    able = [slot for slot in node.slots.values() if slot.offers(job.requirement)]
    if not able:
        version = job.requirement.model_version
        return None, f"has no engine {job.requirement.engine}{f' at {version}' if version else ''}"
    free = [slot for slot in able if slot.state is SlotState.READY and slot.index not in node.busy]
    if not free:
        return None, f"no free slot of {len(able)}"
    if node.node_id == job.node_id and elsewhere:
        return None, "the last try ended here"
    return max(free, key=lambda slot: (slot.realtime_factor, -slot.index)), ""


def _slower(other: _Candidate, best: _Candidate) -> str:
    if other.slot.realtime_factor < best.slot.realtime_factor:
        return f"slower: {other.slot.realtime_factor:.1f} x realtime on its probe clip"
    return "as good, but busier" if len(other.node.busy) > len(best.node.busy) else "as good, but later by name"
