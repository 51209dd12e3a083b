"""What the decisions want done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from agent.core.attempts import Failure, Outcome, Progress, Ref, Work
from agent.core.game_day import GameDayFault


class SlotState(IntEnum):
    """The wire's SlotState, number for number."""

    STARTING = 1
    READY = 2
    BUSY = 3
    BACKOFF = 4


@dataclass(frozen=True)
class SlotView:
    """A slot as the hub is told of it."""

    index: int
    state: SlotState
    attempt: Ref | None = None
    realtime_factor: float = 0.0
    engines: tuple[tuple[str, str], ...] = ()
    detail: str = ""
    on_cpu: bool = False  # its worker has said that renders take no GPU


# To the hub. All but Connect are for the session that stands.


@dataclass(frozen=True)
class Connect:
    """Open a session and say Hello; answered by Welcomed or SessionEnded."""

    slots: tuple[SlotView, ...]
    running: tuple[Ref, ...]
    finished: tuple[Ref, ...]
    draining: bool


@dataclass(frozen=True)
class SendHeartbeat:
    """Renew the leases of all attempts held."""

    slots: tuple[SlotView, ...]
    attempts: tuple[Ref, ...]
    faults: tuple[tuple[GameDayFault, float], ...] = ()  # that are played, and for how many seconds more


@dataclass(frozen=True)
class SendStarted:
    """Say that a worker has begun."""

    ref: Ref


@dataclass(frozen=True)
class SendProgress:
    """Say how far an attempt is."""

    ref: Ref
    progress: Progress


@dataclass(frozen=True)
class SendResult:
    """Report what lies in the outbox."""

    ref: Ref


@dataclass(frozen=True)
class SendDraining:
    """Say that nothing new will be taken."""

    reason: str


@dataclass(frozen=True)
class Clip:
    """A probe clip that was right. `digest` is carried as it is and means nothing to the decisions."""

    realtime_factor: float
    digest: str


@dataclass(frozen=True)
class SendProbed:
    """Say how a probe that the hub has asked for went."""

    probe_id: str
    slot: int
    outcome: Clip | Failure


# To a worker.


@dataclass(frozen=True)
class StartWorker:
    """Start a process for a slot; answered by WorkerLoaded or WorkerExited."""

    slot: int
    generation: int


@dataclass(frozen=True)
class Probe:
    """Have the probe clip rendered, for the hub if there is an id; answered by WorkerProbed or WorkerFailed."""

    slot: int
    generation: int
    probe_id: str = ""


@dataclass(frozen=True)
class Render:
    """Have an attempt rendered; answered by WorkerRendered or WorkerFailed."""

    slot: int
    generation: int
    work: Work


@dataclass(frozen=True)
class CancelRender:
    """Ask a worker to stop a render; answered by WorkerFailed."""

    slot: int
    generation: int
    ref: Ref


@dataclass(frozen=True)
class CancelProbe:
    """Ask a worker to stop a probe clip that nobody waits for any more."""

    slot: int
    generation: int
    probe_id: str


@dataclass(frozen=True)
class KillWorker:
    """End a worker process and all its children at once; answered by WorkerExited."""

    slot: int
    generation: int
    why: str


# To the inputs, the outbox and the uploads.


@dataclass(frozen=True)
class FetchInputs:
    """Bring the files of an attempt into its scratch folder; answered by InputsReady or InputsFailed."""

    work: Work


@dataclass(frozen=True)
class StopFetching:
    """The files are not wanted any more."""

    ref: Ref


@dataclass(frozen=True)
class StoreResult:
    """Keep a result, in place of an earlier one of the same attempt; answered by ResultStored or StoringFailed.

    The attempt's scratch folder is not needed after that.
    """

    ref: Ref
    outcome: Outcome


@dataclass(frozen=True)
class UploadVideo:
    """Bring a video to the hub; answered by VideoUploaded, VideoUnwanted or UploadFailed."""

    ref: Ref


@dataclass(frozen=True)
class SendCheckpoint:
    """Bring the state of an attempt to the hub and say how far it is; answered by CheckpointSent."""

    ref: Ref
    done: int
    total: int


@dataclass(frozen=True)
class ForgetResult:
    """Remove a result from the outbox and stop its upload."""

    ref: Ref


# Game days.


@dataclass(frozen=True)
class BeginFault:
    """Suffer a fault from now on, or begin it anew."""

    fault: GameDayFault
    seconds: float


@dataclass(frozen=True)
class EndFault:
    """Be rid of it."""

    fault: GameDayFault


@dataclass(frozen=True)
class Exit:
    """Everything is done: end the session, the workers and the agent."""


Instruction = (
    Connect
    | SendHeartbeat
    | SendStarted
    | SendProgress
    | SendResult
    | SendDraining
    | SendProbed
    | StartWorker
    | Probe
    | Render
    | CancelRender
    | CancelProbe
    | KillWorker
    | FetchInputs
    | StopFetching
    | StoreResult
    | UploadVideo
    | SendCheckpoint
    | ForgetResult
    | BeginFault
    | EndFault
    | Exit
)
