"""Which nodes are trusted with work, and how far: their health, their breakers, and the probes that bring them back.

A node that is slow or hot is derated: it seems slower than it is, so it gets less. A node that breaks what it is given
is ejected and gets nothing until it has rendered its probe clip. No region loses more than a share of its nodes that
way: those beyond it go on derated. And when many sessions vanish at once the suspect is the hub, or the line: then
nothing is requeued for the grace period.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hub.core import breaker, events, health
from hub.core.decisions import Decision, Kind
from hub.core.faults import Fault
from hub.core.health import GpuReading, Health, Norms, Versions
from hub.core.instructions import Instruction, Record, SendProbe
from hub.core.jobs import Job
from hub.core.nodes import Node, SlotState
from hub.core.quarantine import Verdict

_NORMS_EVERY_S = 30.0
_DIGESTS_KEPT = 256


class Standing:
    """Keeps what the nodes' vitals and breakers say in force. Whoever asks for an instruction files the node anew."""

    def __init__(self, nodes: dict[str, Node], heartbeat_interval_s: float, grace_s: float) -> None:
        self._nodes = nodes
        self._heartbeat_interval_s = heartbeat_interval_s
        self._vanishing = breaker.Vanishing(grace_s)
        self._norms = Norms()
        self._norms_at_s = float("-inf")
        self._open: set[str] = set()  # nodes whose breaker is not closed
        self._probes: dict[str, str] = {}  # node_id -> the probe that it was asked for
        self._probe_number = 0
        self._digests: dict[tuple[str, str], Counter[str]] = {}  # of probe clips, by engine and version
        self._is_frozen = False

    def health(self, node_id: str, now: float) -> Health | None:
        """Of a node that is connected."""
        node = self._nodes.get(node_id)
        return node.vitals.health(now, self._norms) if node and node.online else None

    def frozen(self, now: float) -> bool:
        """Whether nothing is to be requeued now."""
        return self._vanishing.frozen(now)

    def joined(self, node: Node, now: float) -> None:
        """A node has said Hello. What its breaker remembers still holds."""
        self._vanishing.joined(now)
        node.vitals.joined(now, _versions(node))
        node.breaker.unanswered(now)
        self._probes.pop(node.node_id, None)

    def cut(self, node: Node, now: float) -> Iterator[Instruction]:
        """A session has ended; to be told while the node still counts as connected."""
        node.breaker.unanswered(now)
        self._probes.pop(node.node_id, None)
        if node.leaving:
            return
        if why := self._vanishing.cut(now, sum(other.online for other in self._nodes.values())):
            self._is_frozen = True
            yield Record(Decision(Kind.FROZEN, why))

    def heard(
        self, node: Node, readings: tuple[GpuReading, ...], round_trip_s: float, now: float
    ) -> Iterator[Instruction]:
        """A heartbeat."""
        node.vitals.heard(now, self._heartbeat_interval_s)
        if round_trip_s:
            node.vitals.round_trip(round_trip_s)
        for slot in node.slots.values():
            if slot.realtime_factor:
                node.breaker.first_clip(slot.realtime_factor)
        if readings:
            taken = {node.slots[index].gpu_uuid for index in node.busy if index in node.slots}
            if node.vitals.gpus(now, readings, {reading.uuid for reading in readings} - taken - {""}):
                yield from self._broken(node, now)
        yield from self._judge(node, now)

    def rendered(self, node: Node, ratio: float, now: float) -> Iterator[Instruction]:
        """A render took `ratio` times the work that is usual for its like."""
        node.vitals.rendered(now, ratio)
        node.breaker.succeeded(now)
        yield from self._judge(node, now, at_once=True)

    def failed(self, node: Node, job: Job, fault: Fault, now: float) -> Iterator[Instruction]:
        """An attempt of the job failed there."""
        if not fault.nodes_own:
            return
        node.vitals.failed(now, fault)
        node.breaker.failed(now, fault, job.job_id)
        yield from self._eject(node, now)
        yield from self._judge(node, now, at_once=True)

    def forgive(self, verdict: Verdict, now: float) -> Iterator[Instruction]:
        """Inputs were to blame: the nodes that they broke get their faults back."""
        for node_id, fault in verdict.nodes.items():
            node = self._nodes[node_id]
            node.vitals.forgive(now, fault)
            if any([node.breaker.forgive(job_id) for job_id in verdict.jobs]):
                yield from self._readmit(node, "the faults were those of an input that is quarantined")
            yield from self._judge(node, now, at_once=True)

    def probed(self, node: Node, event: events.Probed, now: float) -> Iterator[Instruction]:
        """A node has answered a probe; any but the one that it was asked for last is ignored."""
        if self._probes.get(node.node_id) != event.probe_id:
            return
        del self._probes[node.node_id]
        if event.failure and event.failure.fault is Fault.DECLINED:
            node.breaker.unanswered(now)
            return
        why_not = event.failure.message if event.failure else self._digest_problem(node, event)
        if node.breaker.probed(now, why_not, event.realtime_factor):
            node.vitals.proven(now)
            yield from self._readmit(node, f"its probe clip was right, {event.realtime_factor:.1f} x realtime")
            yield from self._judge(node, now, at_once=True)
        elif node.ejected:
            yield Record(Decision(Kind.EJECTED, node.breaker.reason, node_id=node.node_id))

    def tick(self, now: float) -> Iterator[Instruction]:
        """What the passing of time asks for."""
        if self._is_frozen and not self.frozen(now):
            self._is_frozen = False
            yield Record(Decision(Kind.THAWED, "the grace period is over, or most are back"))
        if now >= self._norms_at_s + _NORMS_EVERY_S:
            self._norms_at_s = now
            self._norms = health.norms(_versions(node) for node in self._nodes.values() if node.online)
        for node_id in sorted(self._open):
            node = self._nodes[node_id]
            if node.online and not self.frozen(now):
                yield from self._eject(node, now)
                yield from self._probe(node, now)

    # Steps.

    def _judge(self, node: Node, now: float, at_once: bool = False) -> Iterator[Instruction]:
        if node.vitals.judge(now, self._norms, at_once):
            why = node.vitals.why if node.vitals.derated else "it is trusted with all of its speed again"
            yield Record(Decision(Kind.DERATED, why, node_id=node.node_id))

    def _broken(self, node: Node, now: float) -> Iterator[Instruction]:
        """A GPU has failed for good: the node is ejected when it has no other, else only that GPU is not trusted."""
        yield from self._judge(node, now, at_once=True)
        if len(node.gpus) <= 1:
            node.breaker.broken(now, node.vitals.why or "its GPU reports that it has failed")
            yield from self._eject(node, now)

    def _eject(self, node: Node, now: float) -> Iterator[Instruction]:
        """Eject a node whose breaker is open, if its region can do without it."""
        if not node.breaker.open or node.ejected:
            return
        first = node.node_id not in self._open
        self._open.add(node.node_id)
        region = [other for other in self._nodes.values() if other.online and other.region == node.region]
        wanting = [
            (other.breaker.badness + 100 * other.ejected, other.node_id) for other in region if other.breaker.open
        ]
        if node.node_id in breaker.may_eject(wanting, len(region)):
            node.ejected = True
            yield Record(Decision(Kind.EJECTED, node.breaker.reason, node_id=node.node_id))
        elif first:
            told = f"{node.breaker.reason}; but {len(wanting)} of the {len(region)} nodes of {node.region} are ill"
            yield Record(Decision(Kind.SPARED, f"{told}, and it can do without a third at most", node_id=node.node_id))

    def _readmit(self, node: Node, why: str) -> Iterator[Instruction]:
        self._open.discard(node.node_id)
        if node.ejected:
            node.ejected = False
            yield Record(Decision(Kind.READMITTED, why, node_id=node.node_id))

    def _probe(self, node: Node, now: float) -> Iterator[Instruction]:
        if not node.breaker.probe_due(now):
            return
        idle = [s.index for s in node.slots.values() if s.state is SlotState.READY and s.index not in node.busy]
        if not idle:
            return
        self._probe_number += 1
        probe_id = f"{node.node_id}-{self._probe_number}"
        self._probes[node.node_id] = probe_id
        node.breaker.probing(now)
        yield Record(Decision(Kind.PROBING, f"slot {idle[0]} was asked for the probe clip", node_id=node.node_id))
        yield SendProbe(node.node_id, probe_id, idle[0])

    def _digest_problem(self, node: Node, event: events.Probed) -> str:
        """A clip that differs from those of most nodes with the same engine is wrong, however well it moves."""
        slot = node.slots.get(event.slot)
        if not event.digest or slot is None or not slot.engines:
            return ""
        if len(self._digests) >= _DIGESTS_KEPT:
            self._digests.clear()
        seen = self._digests.setdefault(slot.engines[0], Counter())
        seen[event.digest] += 1
        usual, count = seen.most_common(1)[0]
        if usual != event.digest and count >= 3:
            return f"its frames have the digest {event.digest[:16]}, those of {count} other probes {usual[:16]}"
        return ""


def _versions(node: Node) -> Versions:
    models = tuple(engine for slot in node.slots.values() for engine in slot.engines)
    return Versions(node.region, tuple((gpu.name, gpu.driver_version) for gpu in node.gpus), models)
