"""What can happen to the hub's decisions."""

from __future__ import annotations

from dataclasses import dataclass

from hub.core.faults import Failure
from hub.core.forecast import Lesson
from hub.core.health import GpuReading
from hub.core.jobs import Job, Progress, Ref
from hub.core.nodes import Gpu, Node, Slot


@dataclass(frozen=True)
class Loaded:
    """The hub has started: what the store holds. Attempts in flight get a fresh lease, so that agents can return."""

    jobs: tuple[Job, ...]
    nodes: tuple[Node, ...]
    lessons: tuple[Lesson, ...] = ()


@dataclass(frozen=True)
class JobStored:
    """A submission has been committed."""

    job: Job


@dataclass(frozen=True)
class CancelRequested:
    """The caller wants no result any more."""

    job_id: str


@dataclass(frozen=True)
class NodeJoined:
    """An agent has said Hello."""

    node_id: str
    region: str
    session_id: str
    slots: tuple[Slot, ...]
    running: tuple[Ref, ...]
    finished: tuple[Ref, ...]
    leaving: bool = False
    gpus: tuple[Gpu, ...] = ()
    inputs: tuple[str, ...] = ()  # hashes of what it has, those used last first
    forgets_inputs: bool = False  # they go with their job


@dataclass(frozen=True)
class NodeHeard:
    """A heartbeat: the slots as they are, and the attempts that the node holds."""

    node_id: str
    session_id: str
    slots: tuple[Slot, ...]
    attempts: tuple[Ref, ...]
    readings: tuple[GpuReading, ...] = ()
    round_trip_s: float = 0.0  # 0 when not known


@dataclass(frozen=True)
class Probed:
    """A node has rendered the probe clip that it was asked for, or not."""

    node_id: str
    probe_id: str
    slot: int
    realtime_factor: float = 0.0
    digest: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class NodeLeaving:
    """The agent takes nothing new any more."""

    node_id: str
    session_id: str


@dataclass(frozen=True)
class NodeCut:
    """The session has ended. A cut is not a death."""

    node_id: str
    session_id: str


@dataclass(frozen=True)
class DrainSet:
    """An operator's wish has been stored."""

    node_id: str
    drain: bool


@dataclass(frozen=True)
class AttemptStarted:
    """A worker has begun."""

    node_id: str
    ref: Ref


@dataclass(frozen=True)
class AttemptProgressed:
    """A worker is further on."""

    node_id: str
    ref: Ref
    progress: Progress


@dataclass(frozen=True)
class Rendered:
    """What a finished render says of its work."""

    video_s: float
    render_s: float  # all stages but preparing
    preparing_s: float
    portrait_was_prepared: bool = False
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class AttemptSucceeded:
    """A finished video is in the hub. `result` is stored as it is and means nothing to the decisions."""

    node_id: str
    ref: Ref
    result: bytes
    rendered: Rendered | None = None


@dataclass(frozen=True)
class AttemptFailed:
    """An attempt ended without a video."""

    node_id: str
    ref: Ref
    failure: Failure


@dataclass(frozen=True)
class AttemptStopped:
    """An attempt was cancelled and its slot is free."""

    node_id: str
    ref: Ref


@dataclass(frozen=True)
class ClaimLost:
    """An assignment was not stored, because somebody else was first; it was not sent either."""

    ref: Ref


@dataclass(frozen=True)
class Diverged:
    """What the store holds of a job that somebody else may have changed. `job` is None when it has ended there."""

    job_id: str
    job: Job | None


@dataclass(frozen=True)
class NodesSeen:
    """What the store holds of nodes: wishes of operators, and the hub that holds the session if it is another one."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class HubsAlive:
    """The other hubs that work. Attempts on nodes whose sessions they hold have their leases renewed there."""

    hub_ids: frozenset[str]


@dataclass(frozen=True)
class StoodStill:
    """This hub did nothing for so long: it was frozen, or its store away. What nodes said meanwhile is yet to come."""

    seconds: float


@dataclass(frozen=True)
class Ticked:
    """Time has passed."""


Event = (
    Loaded
    | JobStored
    | CancelRequested
    | NodeJoined
    | NodeHeard
    | Probed
    | NodeLeaving
    | NodeCut
    | DrainSet
    | AttemptStarted
    | AttemptProgressed
    | AttemptSucceeded
    | AttemptFailed
    | AttemptStopped
    | ClaimLost
    | Diverged
    | NodesSeen
    | HubsAlive
    | StoodStill
    | Ticked
)
