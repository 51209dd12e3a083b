"""Lines between nodes and hubs: a stream keeps its order and loses nothing while it lasts.

What is on its way is lost with the stream, wholly or in part, and each end notices in its own time. Different streams
overtake each other as they like.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Protocol

from hub.core import events
from hub.simulation.world import World

LIMP_S = 30.0  # the longest that a stream's end goes unnoticed by a node
REPORTS = (events.AttemptSucceeded, events.AttemptFailed, events.AttemptStopped)


class End(Protocol):
    """What can hold one end of a session."""

    name: str

    def take(self, session: Session, message: Any) -> None:
        """Something has arrived."""

    def ended(self, session: Session) -> None:
        """The stream has ended, as far as this end knows."""


@dataclass
class Line:
    """How a node's line is at the moment."""

    delay_s: float
    bytes_per_s: float
    slow: float = 1.0  # how many times slower than usual
    cut_until_s: float = 0.0


class Session:
    """One stream between a node and a hub."""

    def __init__(self, network: Network, session_id: str, node: End, hub: End) -> None:
        self.session_id = session_id
        self.node, self.hub = node, hub
        self.node_open, self.hub_open = True, True
        self.heard_at_s = 0.0  # by the hub
        self._network = network
        self._world = network.world
        self._line = network.lines[node.name]
        self._reaches_hub_s = self._reaches_node_s = 0.0
        self.waiting: list[tuple[bool, Any]] = []  # while the line is cut: whether it is for the hub, and what

    def to_hub(self, message: Any) -> None:
        if not self.node_open:
            return
        now = self._world.now
        self._reaches_hub_s = max(self._reaches_hub_s, now + self._network.delay_s(self._line))
        self._world.after(self._reaches_hub_s - now, self._arrive, True, message)
        if isinstance(message, REPORTS) and self._network.repeats():
            self._world.after(
                self._reaches_hub_s - now + self._world.random.uniform(0, 10), self._arrive, True, message
            )

    def to_node(self, message: Any) -> None:
        if not self.hub_open:
            return
        now = self._world.now
        self._reaches_node_s = max(self._reaches_node_s, now + self._network.delay_s(self._line))
        self._world.after(self._reaches_node_s - now, self._arrive, False, message)

    def _arrive(self, at_hub: bool, message: Any) -> None:
        if self.waiting or self._line.cut_until_s > self._world.now:
            self._network.stall(self, at_hub, message)
        elif at_hub and self.hub_open:
            self.heard_at_s = self._world.now
            self.hub.take(self, message)
        elif not at_hub and self.node_open:
            self.node.take(self, message)

    def go_on(self) -> None:
        """The line works again: what has waited arrives, in order."""
        waiting, self.waiting = self.waiting, []
        for at_hub, message in waiting:
            self._arrive(at_hub, message)

    def close_at_node(self, hub_notices_in_s: float) -> None:
        """The node's end is gone. The hub takes what is on its way until it notices."""
        self.node_open = False
        self._world.after(hub_notices_in_s, self.close_at_hub)

    def close_at_hub(self, node_notices_in_s: float = 0.0) -> None:
        """The hub's end is gone."""
        if not self.hub_open:
            return
        self.hub_open = False
        self.hub.ended(self)
        if self.node_open:
            self._world.after(node_notices_in_s, self.notice_at_node)

    def notice_at_node(self) -> None:
        if self.node_open:
            self.node_open = False
            self.node.ended(self)


class Network:
    """All lines and sessions."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: dict[str, Line] = {}
        self.jitter_s = 0.02
        self.repeat_share = 0.0
        self._sessions = 0
        self._stalled: defaultdict[str, list[Session]] = defaultdict(list)

    def open(self, node: End, hub: End) -> Session:
        self._sessions += 1
        return Session(self, f"session-{self._sessions}", node, hub)

    def delay_s(self, line: Line) -> float:
        return line.slow * (line.delay_s + self.jitter_s * self.world.random.random())

    def repeats(self) -> bool:
        return self.repeat_share > 0 and self.world.random.random() < self.repeat_share

    def cut(self, node: str, seconds: float) -> None:
        """Nothing gets through for so long; streams that neither end gives up go on afterwards."""
        line = self.lines[node]
        line.cut_until_s = max(line.cut_until_s, self.world.now + seconds)
        self.world.after(line.cut_until_s - self.world.now, self.heal, node)

    def is_cut(self, node: str) -> bool:
        return self.lines[node].cut_until_s > self.world.now

    def stall(self, session: Session, at_hub: bool, message: Any) -> None:
        if not session.waiting:
            self._stalled[session.node.name].append(session)
        session.waiting.append((at_hub, message))

    def heal(self, node: str) -> None:
        """What has waited arrives, unless the line is still cut."""
        if not self.is_cut(node):
            for session in self._stalled.pop(node, []):
                session.go_on()
