"""A node as the decisions see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hub.core.jobs import Ref, Requirement

DRAIN_WANTED = "an operator asked for it"


class SlotState(StrEnum):
    """What the agent says of one of its slots."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    BACKOFF = "backoff"


class NodeState(StrEnum):
    """A node's standing in the fleet."""

    JOINING = "joining"
    READY = "ready"
    DEGRADED = "degraded"
    EJECTED = "ejected"
    DRAINING = "draining"
    OFFLINE = "offline"


@dataclass(frozen=True)
class Slot:
    """Room for one attempt. `realtime_factor` is seconds of video per second of work on the probe clip, 0 before it."""

    index: int
    state: SlotState
    engines: tuple[Requirement, ...]
    realtime_factor: float = 0.0
    detail: str = ""

    def offers(self, wanted: Requirement) -> bool:
        return any(
            has.engine == wanted.engine and wanted.model_version in ("", has.model_version) for has in self.engines
        )


@dataclass(frozen=True)
class Busy:
    """A slot as the hub has assigned it; the agent's own word for it may be one heartbeat behind."""

    ref: Ref
    since_s: float


@dataclass
class Node:
    """One edge box. It stays known after its session has ended."""

    node_id: str
    region: str
    session_id: str = ""  # empty while offline
    slots: dict[int, Slot] = field(default_factory=dict)
    drain_wanted: bool = False  # by an operator
    leaving: bool = False  # by the agent's own will
    was_ready: bool = False  # in this session
    heard_at_s: float = 0.0
    busy: dict[int, Busy] = field(default_factory=dict)  # by slot index
    hub_id: str = ""  # the other hub that holds its session
    state_there: NodeState = NodeState.OFFLINE  # as that hub sees it

    @property
    def online(self) -> bool:
        return bool(self.session_id)

    @property
    def here(self) -> bool:
        """Its newest session is with this hub."""
        return self.online and not self.hub_id

    @property
    def state(self) -> tuple[NodeState, str]:
        """The state and why."""
        if self.hub_id:
            return self.state_there, f"its session is with hub {self.hub_id}"
        if not self.online:
            return NodeState.OFFLINE, "no session"
        if self.drain_wanted:
            return NodeState.DRAINING, DRAIN_WANTED
        if self.leaving:
            return NodeState.DRAINING, "the agent is stopping"
        if not self.was_ready:
            return NodeState.JOINING, "has not rendered its probe clip yet"
        failing = [slot for slot in self.slots.values() if slot.state is SlotState.BACKOFF]
        if failing:
            return NodeState.DEGRADED, f"slot {failing[0].index}: {failing[0].detail or 'its worker failed'}"
        return NodeState.READY, ""
