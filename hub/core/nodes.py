"""A node as the decisions see it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hub.core.breaker import Breaker
from hub.core.health import Derating, Vitals
from hub.core.jobs import Ref, Requirement

CPU = "cpu"
_REMEMBERED_INPUTS = 256
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
class Gpu:
    """One accelerator, as its driver describes it."""

    uuid: str
    name: str
    memory_bytes: int
    driver_version: str = ""


@dataclass(frozen=True)
class Slot:
    """Room for one attempt. `realtime_factor` is seconds of video per second of work on the probe clip, 0 before it."""

    index: int
    state: SlotState
    engines: tuple[Requirement, ...]
    realtime_factor: float = 0.0
    detail: str = ""
    gpu_uuid: str = ""  # empty on the CPU

    def offer(self, wanted: Requirement) -> Requirement | None:
        """The engine and its version that would do the work, if the slot has it."""
        for has in self.engines:
            if has.engine == wanted.engine and wanted.model_version in ("", has.model_version):
                return has
        return None


@dataclass
class Busy:
    """An attempt in a slot as the hub has assigned it; the agent's own word for it may be one heartbeat behind."""

    slot: int
    since_s: float
    ends_at_s: float = 0.0  # as expected; 0 when nothing was


@dataclass
class Node:
    """One edge box. It stays known after its session has ended."""

    node_id: str
    region: str
    session_id: str = ""  # empty while offline
    slots: dict[int, Slot] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    drain_wanted: bool = False  # by an operator
    leaving: bool = False  # by the agent's own will
    was_ready: bool = False  # in this session
    heard_at_s: float = 0.0
    busy: dict[Ref, Busy] = field(default_factory=dict)  # what is not over; one taken up again may share its slot
    breakers: dict[str, Breaker] = field(default_factory=dict)  # by GPU; empty for the CPU
    out: set[str] = field(default_factory=set)  # GPUs that are ejected; empty for the CPU
    spared: bool = False  # it should be ejected, and its region cannot do without it
    trust: dict[str, float] = field(default_factory=dict)  # by GPU, as judged last
    derating: Derating = field(default_factory=Derating)
    derated_for: str = ""
    judged_at_s: float = -math.inf
    first_factors: dict[int, float] = field(default_factory=dict)  # of each slot's first probe clip
    vitals: Vitals = field(init=False)
    inputs: OrderedDict[str, None] = field(default_factory=OrderedDict)  # hashes that it has, the newest last
    forgets_inputs: bool = False  # they go with their job
    hub_id: str = ""  # the other hub that holds its session
    state_there: NodeState = NodeState.OFFLINE  # as that hub sees it

    def __post_init__(self) -> None:
        self.vitals = Vitals(self.region)

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
        if self.ejected:
            return NodeState.EJECTED, next(self.breaker(part).reason for part in sorted(self.out))
        failing = [slot for slot in self.slots.values() if slot.state is SlotState.BACKOFF]
        if failing:
            return NodeState.DEGRADED, f"slot {failing[0].index}: {failing[0].detail or 'its worker failed'}"
        if self.out:
            return NodeState.DEGRADED, f"GPU {min(self.out)} is ejected: {self.breaker(min(self.out)).reason}"
        if self.derating.derated:
            return NodeState.DEGRADED, self.derated_for
        return NodeState.READY, ""

    def gpu_of(self, slot: Slot) -> Gpu | None:
        """What a slot renders on, as far as it is known; None for the CPU."""
        for gpu in self.gpus:
            if gpu.uuid == slot.gpu_uuid or (not slot.gpu_uuid and len(self.gpus) == 1):
                return gpu
        return None

    @property
    def parts(self) -> set[str]:
        """What its slots render on: UUIDs of GPUs, empty for the CPU."""
        return {self.part_of(index) for index in self.slots}

    def part_of(self, index: int) -> str:
        """What a slot renders on."""
        slot = self.slots.get(index)
        gpu = self.gpu_of(slot) if slot else None
        return gpu.uuid if gpu else ""

    def breaker(self, part: str) -> Breaker:
        return self.breakers.setdefault(part, Breaker())

    @property
    def taken(self) -> set[int]:
        """Slots in which an attempt is."""
        return {busy.slot for busy in self.busy.values()}

    @property
    def ejected(self) -> bool:
        """All of it."""
        return bool(self.out) and self.parts <= self.out

    def gpu_class(self, slot: Slot) -> str:
        """Slots of one class are expected to be alike."""
        gpu = self.gpu_of(slot)
        return gpu.name if gpu else CPU

    def remember(self, hashes: Iterable[str]) -> list[str]:
        """Note inputs that the node has now; returns those forgotten for them."""
        for sha256 in hashes:
            self.inputs[sha256] = None
            self.inputs.move_to_end(sha256)
        return [self.inputs.popitem(last=False)[0] for _ in range(len(self.inputs) - _REMEMBERED_INPUTS)]
