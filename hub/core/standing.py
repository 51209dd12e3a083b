"""Which nodes are trusted with work, and how far: their health, their breakers, and the probes that bring them back.

A node that is slow or hot is derated: it seems slower than it is, so it gets less. What breaks its work is ejected and
gets nothing until it has rendered its probe clip: one GPU of several, or the node. No region loses more than a share of
its nodes that way: those beyond it go on with little. And when many sessions vanish at once the suspect is the hub, or
the line: then nothing is requeued for the grace period.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hub.core import breaker, events, health
from hub.core.breaker import ProbeNorm, ProbeOutcome, Wish
from hub.core.decisions import Decision, Kind
from hub.core.faults import Fault
from hub.core.health import Factor, GpuReading, Health, Norms
from hub.core.instructions import Instruction, Record, SendProbe
from hub.core.jobs import Job, Requirement
from hub.core.nodes import Node, SlotState
from hub.core.quarantine import Conviction
from hub.core.vanishing import Vanishing

_NORMS_EVERY_S = 60.0
_JUDGE_EVERY_S = 15.0
_RENDERS_TOGETHER_S = 0.25
_LATE_INTERVALS = 2.0
_ENOUGH_DIGESTS = 3
_KINDS_KEPT = 256


@dataclass(frozen=True)
class _Asked:
    """A probe that was sent."""

    probe_id: str
    node_id: str
    part: str


class Standing:
    """Keeps what vitals and breakers say in force. Nodes in `changed` are to be filed anew."""

    def __init__(self, nodes: dict[str, Node], heartbeat_interval_s: float, grace_s: float) -> None:
        self.changed: set[str] = set()
        self._nodes = nodes
        self._heartbeat_interval_s = heartbeat_interval_s
        self._vanishing = Vanishing(grace_s)
        self._connected: set[str] = set()
        self._unjudged: dict[str, None] = {}  # nodes that have rendered since they were judged
        self._norms = Norms()
        self._norms_at_s = float("-inf")
        self._ill: set[str] = set()  # nodes with a breaker that is not closed, or wants to open
        self._asked: dict[str, _Asked] = {}  # by node
        self._probes = 0
        self._here: Counter[str] = Counter()  # nodes by region,
        self._counted_at_s = float("-inf")  # as they were then
        self._digests: dict[Requirement, Counter[str]] = {}  # of right probe clips

    @property
    def frozen(self) -> bool:
        """Whether nothing is to be requeued now."""
        return self._vanishing.frozen

    def health(self, node_id: str, now: float) -> Health | None:
        """Of a node that is connected."""
        node = self._nodes.get(node_id)
        if node is None or not node.online:
            return None
        found = node.vitals.health(now, self._norms)
        if node.spared:
            why = "should be ejected, and is spared since its region cannot do without it"
            found = found.beside(Factor("spared", 0.0, "", breaker.SPARED_SHARE, why))
        return found

    # What happens.

    def joined(self, node: Node, now: float) -> Iterator[Instruction]:
        """A node has said Hello. What its breakers remember still holds."""
        self._connected.add(node.node_id)
        node.vitals.joined(now, node.region)
        self._lose_probe(node, now)
        if self._vanishing.joined(now, node.node_id):
            yield Record(Decision(Kind.THAWED, self._vanishing.reason))
        yield from self._eject(node, now)
        yield from self._judge(node, now)

    def cut(self, node: Node, now: float) -> Iterator[Instruction]:
        """A session has ended; to be told while the node still counts as connected."""
        self._connected.discard(node.node_id)
        self._lose_probe(node, now)
        if node.leaving:
            return
        if self._vanishing.ticked(now):
            yield Record(Decision(Kind.THAWED, self._vanishing.reason))
        if self._vanishing.cut(now, node.node_id, len(self._connected)):
            yield Record(Decision(Kind.FROZEN, self._vanishing.reason))

    def heard(
        self, node: Node, readings: tuple[GpuReading, ...], round_trip_s: float, now: float
    ) -> Iterator[Instruction]:
        """A heartbeat."""
        node.vitals.heard(now, self._heartbeat_interval_s)
        node.vitals.round_trip(round_trip_s)
        first = node.first_factors
        node.first_factors = {
            slot.index: first.get(slot.index, slot.realtime_factor)
            for slot in node.slots.values()
            if slot.index in first or slot.realtime_factor
        }
        taken = {node.part_of(index) for index in node.taken}
        idle = (replace(reading, idle=reading.uuid not in taken) for reading in readings)
        for alarm in node.vitals.gpus(now, idle) if readings else ():
            node.breaker(alarm.gpu_uuid).condemn(alarm.reason)
            yield from self._eject(node, now)
        if now >= node.judged_at_s + _JUDGE_EVERY_S:
            node.vitals.versions(dict(offer for slot in node.slots.values() for offer in slot.engines))
            yield from self._judge(node, now)

    def rendered(self, node: Node, job: Job, ratio: float, now: float) -> Iterator[Instruction]:
        """The job was rendered there, in `ratio` times the work that it takes its like; 0 where that is not known."""
        part = node.part_of(job.slot)
        node.vitals.rendered(now, part, ratio)
        node.breaker(part).rendered(now, job.job_id)
        if now >= node.judged_at_s + _RENDERS_TOGETHER_S:
            yield from self._judge(node, now)
        else:  # where they come faster than that, the next tick is soon enough
            self._unjudged[node.node_id] = None

    def failed(self, node: Node, job: Job, fault: Fault, now: float) -> Iterator[Instruction]:
        """An attempt of the job failed there."""
        if not fault.nodes_own:
            return
        part = node.part_of(job.slot)
        node.vitals.failed(now, part, fault)
        node.breaker(part).failed(now, fault, job.job_id)
        if node.here:  # one that is away is judged when it is back: its silence says enough meanwhile
            yield from self._eject(node, now)
            yield from self._judge(node, now)

    def excuse(self, conviction: Conviction, now: float) -> Iterator[Instruction]:
        """Inputs were to blame: the nodes that they broke get their faults back."""
        for witness in conviction.witnesses:
            node = self._nodes.get(witness.node_id)
            if node is None:
                continue
            if any([each.forgive(witness.job_id) for each in node.breakers.values()]):
                node.vitals.excused(now, witness.fault)
            yield from self._judge(node, now)

    def probed(self, node: Node, event: events.Probed, now: float) -> Iterator[Instruction]:
        """A node has answered a probe; any but the one that it was asked for last is ignored."""
        asked = self._asked.get(node.node_id)
        if asked is None or asked.probe_id != event.probe_id:
            return
        if event.failure and event.failure.fault is Fault.DECLINED:
            self._lose_probe(node, now)
            return
        del self._asked[node.node_id]
        why = event.failure.message if event.failure else ""
        outcome = ProbeOutcome(not event.failure, why, event.realtime_factor, event.digest)
        node.breaker(asked.part).probed(now, outcome, self._norm(node, event))
        yield from self._answered(node, asked.part, now)

    def tick(self, now: float) -> Iterator[Instruction]:
        """What the passing of time asks for."""
        if self._vanishing.ticked(now):
            yield Record(Decision(Kind.THAWED, self._vanishing.reason))
        if now >= self._norms_at_s + _NORMS_EVERY_S:
            self._norms_at_s = now
            self._norms = health.norms(node.vitals for node in self._nodes.values() if node.online)
        late_s = now - _LATE_INTERVALS * self._heartbeat_interval_s
        unjudged, self._unjudged = self._unjudged, {}
        for node in self._nodes.values():
            late = node.online and node.heard_at_s < late_s and node.judged_at_s < late_s
            if late or node.node_id in unjudged:
                yield from self._judge(node, now)
        for node_id in sorted(self._ill):
            node = self._nodes[node_id]
            if node.online and not self.frozen:
                yield from self._eject(node, now)
                yield from self._probe(node, now)

    # Steps.

    def _judge(self, node: Node, now: float) -> Iterator[Instruction]:
        """Look at a node's health anew."""
        node.judged_at_s = now
        share = breaker.SPARED_SHARE if node.spared else 1.0
        trust = {part: share * node.vitals.health(now, self._norms, part).score for part in node.parts}
        if trust != node.trust:
            node.trust = trust
            self.changed.add(node.node_id)
        whole = node.vitals.health(now, self._norms)
        if node.derating.turned(whole.score):
            node.derated_for = health.reason(whole) if node.derating.derated else ""
            self.changed.add(node.node_id)
            told = node.derated_for or "it is trusted with all of its speed again"
            yield Record(Decision(Kind.DERATED, told, node_id=node.node_id))

    def _eject(self, node: Node, now: float) -> Iterator[Instruction]:
        """Take out the parts of a node that want to be: a GPU beside others at once, a node if its region permits."""
        for part in node.parts:
            if not (why := node.breaker(part).wants(now)):
                continue
            self._ill.add(node.node_id)
            if not node.here:
                continue  # it gets nothing anyway, and is looked at again when it is back
            if len(node.parts - node.out) > 1:
                yield from self._take_out(node, part, f"GPU {part}: {why}", now)
                continue
            ruling = self._rule(node.region, now)
            if any(wish.node_id == node.node_id for wish in ruling.ejected):
                yield from self._take_out(node, part, why, now)
            elif not node.spared:
                node.spared = True
                spared = next(wish.reason for wish in ruling.spared if wish.node_id == node.node_id)
                yield Record(Decision(Kind.SPARED, spared, node_id=node.node_id))
                yield from self._judge(node, now)

    def _rule(self, region: str, now: float) -> breaker.Ruling:
        if self._counted_at_s != now:
            self._counted_at_s = now
            self._here = Counter(node.region for node in self._nodes.values() if node.here)
        ill = [node for node in map(self._nodes.__getitem__, self._ill) if node.here and node.region == region]
        wishes = [
            Wish(node.node_id, max(each.badness(now) for each in node.breakers.values()), why)
            for node in ill
            if not node.ejected and (why := next((w for b in node.breakers.values() if (w := b.wants(now))), ""))
        ]
        return breaker.ejectable(region, self._here[region], sum(node.ejected for node in ill), wishes)

    def _take_out(self, node: Node, part: str, why: str, now: float) -> Iterator[Instruction]:
        node.breaker(part).open(now)
        node.out.add(part)
        node.spared = False
        self.changed.add(node.node_id)
        yield Record(Decision(Kind.EJECTED, why, node_id=node.node_id))

    def _probe(self, node: Node, now: float) -> Iterator[Instruction]:
        """Ask for the probe clips that are due, one at a time and node."""
        asked = self._asked.get(node.node_id)
        if asked and node.breaker(asked.part).overdue(now):
            del self._asked[node.node_id]
            node.breaker(asked.part).probed(now, ProbeOutcome(False, "no answer in time"), ProbeNorm())
            yield from self._answered(node, asked.part, now)
        elif not asked:
            due = (part for part in sorted(node.parts) if node.breaker(part).due(now))
            for part, slot in ((part, self._idle_slot(node, part)) for part in due):
                if slot is not None:
                    yield from self._ask(node, part, slot, now)
                    return

    def _ask(self, node: Node, part: str, slot: int, now: float) -> Iterator[Instruction]:
        self._probes += 1
        asked = self._asked[node.node_id] = _Asked(f"{node.node_id}-{self._probes}", node.node_id, part)
        node.breaker(part).probe(now)
        yield Record(Decision(Kind.PROBING, f"slot {slot} was asked for its probe clip", node_id=node.node_id))
        yield SendProbe(node.node_id, asked.probe_id, slot)

    def _answered(self, node: Node, part: str, now: float) -> Iterator[Instruction]:
        """What a probe's answer has changed."""
        guard = node.breaker(part)
        if guard.state is breaker.State.CLOSED and not guard.wants(now):
            node.vitals.proven(part)
            was_out, was_spared = part in node.out, node.spared
            node.out.discard(part)
            node.spared = False
            self.changed.add(node.node_id)
            if all(each.state is breaker.State.CLOSED for each in node.breakers.values()):
                self._ill.discard(node.node_id)
            if was_out or was_spared:
                yield Record(Decision(Kind.READMITTED, guard.reason, node_id=node.node_id))
            yield from self._judge(node, now)
        elif part in node.out:
            yield Record(Decision(Kind.EJECTED, guard.reason, node_id=node.node_id))

    def _lose_probe(self, node: Node, now: float) -> None:
        if asked := self._asked.pop(node.node_id, None):
            node.breaker(asked.part).probe_lost(now)

    @staticmethod
    def _idle_slot(node: Node, part: str) -> int | None:
        taken = node.taken
        slots = (s for s in node.slots.values() if s.state is SlotState.READY and s.index not in taken)
        return next((s.index for s in slots if node.part_of(s.index) == part), None)

    def _norm(self, node: Node, event: events.Probed) -> ProbeNorm:
        """What the clip should be like: its digest counts as usual once enough others had it."""
        first = node.first_factors.get(event.slot, 0.0)
        slot = node.slots.get(event.slot)
        if not event.digest or slot is None or not slot.engines:
            return ProbeNorm(first)
        if len(self._digests) >= _KINDS_KEPT:
            self._digests.clear()
        seen = self._digests.setdefault(slot.engines[0], Counter())
        usual = _usual(seen)
        seen[event.digest] += 1
        return ProbeNorm(first, usual)


def _usual(seen: Counter[str]) -> str:
    top: Iterable[tuple[str, int]] = seen.most_common(1)
    return next((digest for digest, count in top if count >= _ENOUGH_DIGESTS and 2 * count > seen.total()), "")
