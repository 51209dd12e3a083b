"""Agents that are connected: what they said of themselves, and a queue of what is to be sent to each."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from hub.core.nodes import Slot
from hub.core.tenants import Rate
from hub.forward.intake import Source
from sonic.v1 import fleet_service_pb2, metrics_pb2, nodes_pb2

Outgoing = fleet_service_pb2.SessionResponse
MESSAGES_PER_S, MOST_AT_ONCE = 1000.0, 5000.0  # that are heard of one agent; whoever says more is heard later
MOST_UNTAKEN = 10_000  # messages that wait for an agent
ENDING_S = 5.0  # for an agent to take what is to be sent before its session's end
_log = logging.getLogger("hub.sessions")


@dataclass
class AgentSession:
    """One agent's stream. None in the queue ends it."""

    session_id: str
    hello: fleet_service_pb2.Hello
    joined: str = ""  # the enrolment that the node's certificate goes back to
    outgoing: asyncio.Queue[Outgoing | None] = field(default_factory=asyncio.Queue)
    slots: list[nodes_pb2.Slot] = field(default_factory=list)
    health: nodes_pb2.NodeHealth = field(default_factory=nodes_pb2.NodeHealth)
    faults: list[nodes_pb2.PlayFault] = field(default_factory=list)  # of a game day, that it plays now
    heard_at_s: float = field(default_factory=time.time)  # wall clock
    offered: tuple[Slot, ...] = ()  # the slots as the decisions see them
    handler: asyncio.Task[object] | None = None  # that sends what is in the queue
    metrics: Source = field(init=False)
    pace: Rate = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Source(self.hello.node_id, self.hello.region, self._acknowledge_samples)
        self.pace = Rate(MESSAGES_PER_S * 60, MOST_AT_ONCE, time.monotonic(), MOST_AT_ONCE)

    def _acknowledge_samples(self, sequences: list[int]) -> None:
        ack = metrics_pb2.SamplesAck(sequences=sequences)
        self.outgoing.put_nowait(Outgoing(samples_ack=ack))

    def end(self) -> None:
        """Once what waits has been taken; an agent that takes nothing is not waited for."""
        self.outgoing.put_nowait(None)
        if self.handler:
            asyncio.get_running_loop().call_later(ENDING_S, self.handler.cancel)

    def hear(self, heartbeat: fleet_service_pb2.Heartbeat) -> bool:
        """Whether its slots are as they were."""
        before, self.slots = self.slots, list(heartbeat.slots)
        self.health = heartbeat.health
        self.faults = list(heartbeat.faults)
        self.heard_at_s = time.time()
        return self.slots == before


class Sessions:
    """The connected agents by node_id."""

    def __init__(self, left: set[str] | None = None) -> None:
        self._by_node: dict[str, AgentSession] = {}
        self._left = left or set()

    def __len__(self) -> int:
        return len(self._by_node)

    def all(self) -> list[AgentSession]:
        return list(self._by_node.values())

    def get(self, node_id: str) -> AgentSession | None:
        return self._by_node.get(node_id)

    def open(self, session: AgentSession) -> None:
        """Let a session take over its node; an older one of the same node is ended."""
        older = self._by_node.get(session.hello.node_id)
        self._by_node[session.hello.node_id] = session
        self._left.discard(session.hello.node_id)
        if older:
            older.end()

    def close(self, session: AgentSession) -> None:
        if self._by_node.get(session.hello.node_id) is session:
            del self._by_node[session.hello.node_id]
            if session.metrics.leaving:
                self._left.add(session.hello.node_id)

    def left(self, node_id: str) -> bool:
        """Whether a node that is not connected went of its own will."""
        return node_id in self._left

    def send(self, node_id: str, message: Outgoing) -> None:
        """Send if the node is connected. What is lost here is made good when the agent says Hello again."""
        if session := self._by_node.get(node_id):
            session.outgoing.put_nowait(message)

    def play(self, node_id: str, fault: nodes_pb2.PlayFault) -> str:
        """Let a node play a fault of a game day; returns why not, or nothing."""
        session = self._by_node.get(node_id)
        if session is None:
            return f"node {node_id} is not connected; it plays faults only while it is"
        if not session.hello.plays_faults:
            return f"node {node_id} does not allow it; start its agent with --plays-faults"
        session.outgoing.put_nowait(Outgoing(play_fault=fault))
        name = nodes_pb2.GameDayFault.Name(fault.fault)
        _log.warning("game day", extra={"node_id": node_id, "fault": name, "seconds": fault.seconds})
        return ""

    def end_all(self) -> None:
        for session in self._by_node.values():
            session.end()
