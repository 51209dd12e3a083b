"""Which nodes are trusted with work, and how far: their health, their breakers, and the probes that bring them back.

A node that is slow or hot is derated: it seems slower than it is, so it gets less. A node that breaks what it is given is
ejected and gets nothing until it has rendered its probe clip. No region loses more than a share of its nodes that way:
those beyond it go on derated. And when many sessions vanish at once the suspect is the hub, or the line: nothing is
requeued for the grace period.
"""

from __future__ import annotations

from hub.core import breaker
from hub.core.health import Health, Norms
from hub.core.nodes import Node

_NORMS_EVERY_S = 30.0


class Standing:
    """Keeps what the nodes' vitals and breakers say in force."""

    def __init__(self, nodes: dict[str, Node], heartbeat_interval_s: float, grace_s: float) -> None:
        self._nodes = nodes
        self._heartbeat_interval_s = heartbeat_interval_s
        self._vanishing = breaker.Vanishing(grace_s)
        self._norms = Norms()
        self._norms_at_s = float("-inf")
        self._changed: set[str] = set()
        self._spared: set[str] = set()
        self._probes: dict[str, str] = {}  # node_id -> the probe that it was asked for
        self._probe_number = 0
        self._was_frozen = False

    def health(self, node_id: str, now: float) -> Health | None:
        """Of a node that is connected."""
        node = self._nodes.get(node_id)
        return node.vitals.health(now, self._norms) if node and node.online else None

    def frozen(self, now: float) -> bool:
        """Whether nothing is to be requeued now."""
        return self._vanishing.frozen(now)

    def changed(self) -> list[Node]:
        """The nodes whose standing has changed since the last call."""
        found = [self._nodes[node_id] for node_id in sorted(self._changed)]
        self._changed.clear()
        return found

    def joined(self, node, now):
        yield from ()

    def heard(self, node, readings, rtt, now):
        yield from ()

    def cut(self, node, now):
        yield from ()

    def probed(self, node, event, now):
        yield from ()

    def failed(self, node, ref, fault, now):
        yield from ()

    def rendered(self, node, slot, ratio, now): ...
    def tick(self, now):
        yield from ()
