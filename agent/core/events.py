"""What can happen to the agent's decisions. What comes from a worker names its generation: an old one is not heard."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from agent.core.attempts import Failure, Progress, Ref, Work
from agent.core.game_day import GameDayFault


@dataclass(frozen=True)
class Kept:
    """The agent has started: a result of an earlier life lies in the outbox."""

    ref: Ref
    has_video: bool


@dataclass(frozen=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True)
class StoodStill:
    """The agent did nothing for so long: what its workers have said meanwhile is yet to be heard."""

    seconds: float


@dataclass(frozen=True)
class StopRequested:
    """The agent is to leave; asked a second time, without waiting for what runs."""


# From the hub.


@dataclass(frozen=True)
class Welcomed:
    """A session stands."""

    heartbeat_interval_s: float
    lease_s: float = 30.0
    takes_checkpoints: bool = False


@dataclass(frozen=True)
class SessionEnded:
    """The session was cut or could not be had. `jitter` is 0 to 1, drawn by whoever reports this."""

    detail: str
    jitter: float


@dataclass(frozen=True)
class Assigned:
    """The hub wants something rendered."""

    work: Work


@dataclass(frozen=True)
class CancelRequested:
    """The hub wants an attempt stopped."""

    ref: Ref


class Verdict(IntEnum):
    """The wire's ResultVerdict, number for number."""

    COMMITTED = 1
    SUPERSEDED = 2
    UNKNOWN = 3
    VIDEO_MISSING = 4


@dataclass(frozen=True)
class Acknowledged:
    """The hub has judged a result."""

    ref: Ref
    verdict: Verdict


@dataclass(frozen=True)
class DrainWished:
    """An operator, through the hub, wants nothing new taken, or takes that wish back."""

    drain: bool


@dataclass(frozen=True)
class ProbeWished:
    """The hub wants the probe clip rendered in a free slot."""

    probe_id: str
    slot: int


@dataclass(frozen=True)
class FaultWished:
    """An operator wants the node to suffer a fault for so long, or to be rid of it: 0."""

    fault: GameDayFault
    seconds: float


# From the inputs, the outbox and the uploads.


@dataclass(frozen=True)
class InputsReady:
    """The files of an attempt lie in its scratch folder."""

    ref: Ref


@dataclass(frozen=True)
class InputsFailed:
    """The files of an attempt could not be had."""

    ref: Ref
    failure: Failure


@dataclass(frozen=True)
class ResultStored:
    """A result will survive a crash."""

    ref: Ref


@dataclass(frozen=True)
class StoringFailed:
    """A result could not be written to disk."""

    ref: Ref
    detail: str


@dataclass(frozen=True)
class VideoUploaded:
    """The hub holds the video of an attempt."""

    ref: Ref


@dataclass(frozen=True)
class VideoUnwanted:
    """The hub takes no video of the attempt any more, for its job has ended; what became of it, a report is told."""

    ref: Ref


@dataclass(frozen=True)
class UploadFailed:
    """The hub does not hold the video; `refused` when trying again is not likely to help."""

    ref: Ref
    refused: bool
    detail: str


@dataclass(frozen=True)
class CheckpointSent:
    """The hub has been sent the state of an attempt, or could not be: all the same, for the next one is on its way."""

    ref: Ref


# From a worker.


@dataclass(frozen=True)
class WorkerLoaded:
    """The engines are loaded: pairs of an engine's name and its model version, and of a network and its provider."""

    slot: int
    generation: int
    engines: tuple[tuple[str, str], ...]
    networks: tuple[tuple[str, str], ...] = ()
    on_cpu: bool = False


@dataclass(frozen=True)
class WorkerProbed:
    """The probe clip was right. `realtime_factor` is seconds of video per second of work.

    `render_id` is the hub's name of the probe, if the hub has asked for it.
    """

    slot: int
    generation: int
    realtime_factor: float
    render_id: str = ""
    digest: str = ""


@dataclass(frozen=True)
class WorkerAlive:
    """A sign of life. `ticks` stands still when the renderer hangs."""

    slot: int
    generation: int
    ticks: int


@dataclass(frozen=True)
class WorkerProgressed:
    """A render is further on."""

    slot: int
    generation: int
    render_id: str
    progress: Progress


@dataclass(frozen=True)
class WorkerCheckpointed:
    """A newer state of a render lies in its scratch folder."""

    slot: int
    generation: int
    render_id: str
    done: int
    total: int


@dataclass(frozen=True)
class WorkerRendered:
    """A video is complete and checked."""

    slot: int
    generation: int
    render_id: str
    report: bytes


@dataclass(frozen=True)
class WorkerFailed:
    """A render, or a probe clip, came to nothing. `render_id` is that of the attempt or of the hub's probe."""

    slot: int
    generation: int
    render_id: str
    failure: Failure


class ExitCause(StrEnum):
    """Why a worker process is gone."""

    CRASHED = "crashed"
    OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class WorkerExited:
    """A worker process is gone, or could not be started. Its last words are for the operator, never for a caller."""

    slot: int
    generation: int
    cause: ExitCause
    detail: str
    last_words: str = ""


FromWorker = (
    WorkerLoaded
    | WorkerProbed
    | WorkerAlive
    | WorkerProgressed
    | WorkerCheckpointed
    | WorkerRendered
    | WorkerFailed
    | WorkerExited
)
Event = (
    Kept
    | Ticked
    | StoodStill
    | StopRequested
    | Welcomed
    | SessionEnded
    | Assigned
    | CancelRequested
    | Acknowledged
    | DrainWished
    | ProbeWished
    | FaultWished
    | InputsReady
    | InputsFailed
    | ResultStored
    | StoringFailed
    | VideoUploaded
    | VideoUnwanted
    | UploadFailed
    | CheckpointSent
    | FromWorker
)
