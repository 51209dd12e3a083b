"""One slot: its worker's life and the one attempt that it may hold.

The worker:  BACKOFF -> STARTING -> PROBING -> READY, and from any of these -> (KILLED ->) BACKOFF.
The attempt: FETCHING -> RENDERING -> gone; its outcome is in the deliveries from then on.

A slot takes an attempt only while its worker is READY. An attempt whose worker is killed ends at the kill, not at the
exit: a process that the kernel cannot end must not keep a job.

A process that reports a device error is not trusted with another render, nor one that runs out of memory twice without
a video in between: the first time it has given back what the render took.

A probe that the hub asks for is rendered while the slot is free, and gives way to an attempt at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from agent.core import events
from agent.core.attempts import Failure, Fault, Outcome, Progress, Ref, Rendered, Stopped, Work
from agent.core.checkpoints import Checkpoints
from agent.core.deliveries import UPLOADING_FROM, Deliveries
from agent.core.instructions import (
    CancelProbe,
    CancelRender,
    Clip,
    FetchInputs,
    Instruction,
    KillWorker,
    Probe,
    Render,
    SendProbed,
    SendProgress,
    SendStarted,
    SlotState,
    SlotView,
    StartWorker,
    StopFetching,
)
from agent.core.terms import Terms

RENDERING_FROM = 0.02  # share of an attempt that is done when its inputs are there


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    BACKOFF = "waiting for its next start"
    STARTING = "loading its engine"
    PROBING = "rendering the probe clip"
    READY = "ready"
    KILLED = "being ended"


@dataclass
class Attempt:
    """The attempt that holds the slot."""

    work: Work
    rendering: bool = False
    began_at_s: float = 0.0
    ending: Outcome | None = None  # what it ends with when the worker has let go of it
    kill_at_s: float = 0.0
    stage: str = ""
    fraction: float = 0.0
    progress_at_s: float = 0.0
    checkpoints: Checkpoints = field(default_factory=Checkpoints)


@dataclass(frozen=True)
class AskedProbe:
    """A probe clip that the hub waits for."""

    probe_id: str
    began_at_s: float


class Slot:
    """Room for one attempt."""

    def __init__(self, index: int, terms: Terms, deliveries: Deliveries) -> None:
        self.index = index
        self.attempt: Attempt | None = None
        self._probe: AskedProbe | None = None
        self.engines: tuple[tuple[str, str], ...] = ()
        self.networks: tuple[tuple[str, str], ...] = ()
        self._on_cpu = False
        self._ran_out_of_memory = False  # and has rendered nothing since
        self._terms = terms
        self._deliveries = deliveries
        self._worker = WorkerState.BACKOFF
        self._detail = "its worker has not been started yet"
        self._generation = 0
        self._failures = 0
        self._realtime_factor = 0.0
        self._since_s = 0.0  # in this state of the worker
        self._start_at_s = 0.0
        self._heard_at_s = 0.0
        self._ticks = -1
        self._ticked_at_s = 0.0

    @property
    def ready(self) -> bool:
        return self._worker is WorkerState.READY

    @property
    def view(self) -> SlotView:
        return SlotView(
            self.index,
            self._state,
            self.attempt.work.ref if self.attempt else None,
            self._realtime_factor,
            self.engines,
            "" if self.ready else self._detail or str(self._worker),
            self._on_cpu,
        )

    @property
    def _state(self) -> SlotState:
        if self.attempt:
            return SlotState.BUSY
        if self.ready:
            return SlotState.READY
        if self._worker in (WorkerState.STARTING, WorkerState.PROBING):
            return SlotState.STARTING
        return SlotState.BACKOFF

    # The attempt.

    def why_not(self, work: Work) -> str:
        """Why the slot cannot take the work now; empty when it can."""
        if self.attempt:
            return f"slot {self.index} is busy with {self.attempt.work.ref}"
        if not self.ready:
            return f"the worker of slot {self.index} is not ready: {self._detail or self._worker}"
        if not any(name == work.engine and work.model_version in ("", version) for name, version in self.engines):
            has = ", ".join(f"{name} {version}" for name, version in self.engines)
            return f"{work.engine} {work.model_version}".rstrip() + f" is not loaded in slot {self.index}, only {has}"
        return ""

    def take(self, work: Work) -> list[Instruction]:
        """Begin an attempt; `why_not` has said nothing against it."""
        self.attempt = Attempt(work, stage="fetching")
        return [*self._give_way(), SendProgress(work.ref, Progress("fetching")), FetchInputs(work)]

    def inputs_ready(self, ref: Ref, now: float) -> list[Instruction]:
        attempt = self.attempt
        if attempt is None or attempt.work.ref != ref or attempt.rendering:
            return []
        attempt.rendering, attempt.began_at_s = True, now
        self._ticked_at_s = now
        return [Render(self.index, self._generation, attempt.work), SendStarted(ref)]

    def inputs_failed(self, ref: Ref, failure: Failure) -> list[Instruction]:
        if self.attempt is None or self.attempt.work.ref != ref or self.attempt.rendering:
            return []
        return self._end(failure)

    def stop(self, outcome: Stopped | Failure, now: float) -> list[Instruction]:
        """End the attempt before its time, with this outcome; a repeat changes nothing."""
        attempt = self.attempt
        if attempt is None or attempt.ending:
            return []
        if not attempt.rendering:
            return [StopFetching(attempt.work.ref), *self._end(outcome)]
        attempt.ending = outcome
        attempt.kill_at_s = now + self._terms.cancel_grace_s
        return [CancelRender(self.index, self._generation, attempt.work.ref)]

    def checkpoint_sent(self, ref: Ref, now: float) -> None:
        if self.attempt and self.attempt.work.ref == ref:
            self.attempt.checkpoints.sent(now)

    def checkpoint_due(self, now: float) -> list[Instruction]:
        """What can be done for the attempt's state while a session stands."""
        attempt = self.attempt
        return attempt.checkpoints.due(attempt.work.ref, now) if attempt and not attempt.ending else []

    def _end(self, outcome: Outcome) -> list[Instruction]:
        assert self.attempt
        ref, self.attempt = self.attempt.work.ref, None
        return self._deliveries.add(ref, outcome)

    # A probe that the hub has asked for.

    def probe(self, probe_id: str, now: float) -> list[Instruction]:
        """Render the probe clip, if the slot is free."""
        if self.attempt or self._probe or not self.ready:
            busy = f"slot {self.index} is {'busy' if self.attempt or self._probe else 'not ready'}"
            return [SendProbed(probe_id, self.index, _declined(busy))]
        self._probe = AskedProbe(probe_id, now)
        return [Probe(self.index, self._generation, probe_id)]

    def _give_way(self) -> list[Instruction]:
        probe = self._probe
        if probe is None:
            return []
        cancel = CancelProbe(self.index, self._generation, probe.probe_id)
        return [cancel, *self._end_probe(_declined(f"slot {self.index} has got work"))]

    def _end_probe(self, outcome: Clip | Failure) -> list[Instruction]:
        probe, self._probe = self._probe, None
        return [SendProbed(probe.probe_id, self.index, outcome)] if probe else []

    # The worker.

    def hear(self, event: events.FromWorker, now: float) -> list[Instruction]:
        """Something from the worker."""
        if event.generation != self._generation:
            return []
        if isinstance(event, events.WorkerExited):
            return self._exited(event, now)
        if self._worker in (WorkerState.KILLED, WorkerState.BACKOFF):
            return []
        self._heard_at_s = now
        match event:
            case events.WorkerLoaded():
                return self._loaded(event, now)
            case events.WorkerProbed():
                return self._probed(event, now)
            case events.WorkerAlive():
                return self._alive(event, now)
            case events.WorkerProgressed():
                return self._progressed(event, now)
            case events.WorkerCheckpointed():
                return self._checkpointed(event, now)
            case events.WorkerRendered():
                return self._rendered(event, now)
            case events.WorkerFailed():
                return self._failed(event, now)

    def _loaded(self, event: events.WorkerLoaded, now: float) -> list[Instruction]:
        if self._worker is not WorkerState.STARTING:
            return []
        self.engines, self.networks, self._on_cpu = event.engines, event.networks, event.on_cpu
        self._enter(WorkerState.PROBING, now)
        return [Probe(self.index, self._generation)]

    def _probed(self, event: events.WorkerProbed, now: float) -> list[Instruction]:
        if self._worker is WorkerState.PROBING:
            self._realtime_factor = event.realtime_factor
            self._enter(WorkerState.READY, now)
        elif self._probe and self._probe.probe_id == event.render_id:
            self._realtime_factor = event.realtime_factor
            return self._end_probe(Clip(event.realtime_factor, event.digest))
        return []

    def _alive(self, event: events.WorkerAlive, now: float) -> list[Instruction]:
        if event.ticks != self._ticks:
            self._ticks, self._ticked_at_s = event.ticks, now
        return []

    def _progressed(self, event: events.WorkerProgressed, now: float) -> list[Instruction]:
        attempt = self._rendering(event.render_id)
        if attempt is None or attempt.ending:
            return []
        self._ticked_at_s = now
        if event.progress.stage == attempt.stage and now - attempt.progress_at_s < self._terms.progress_interval_s:
            return []
        share = RENDERING_FROM + (UPLOADING_FROM - RENDERING_FROM) * event.progress.fraction
        attempt.stage, attempt.progress_at_s = event.progress.stage, now
        attempt.fraction = max(attempt.fraction, min(share, UPLOADING_FROM))
        told = Progress(event.progress.stage, event.progress.done, event.progress.total, attempt.fraction)
        return [SendProgress(attempt.work.ref, told)]

    def _checkpointed(self, event: events.WorkerCheckpointed, now: float) -> list[Instruction]:
        attempt = self._rendering(event.render_id)
        if attempt and not attempt.ending:
            self._ticked_at_s = now
            attempt.checkpoints.made(event.done, event.total)
        return []

    def _rendered(self, event: events.WorkerRendered, now: float) -> list[Instruction]:
        attempt = self._rendering(event.render_id)
        if attempt is None:
            return []
        self._failures, self._ran_out_of_memory = 0, False
        return self._end(attempt.ending or Rendered(event.report, now - attempt.began_at_s))

    def _failed(self, event: events.WorkerFailed, now: float) -> list[Instruction]:
        if self._worker is WorkerState.STARTING:
            return self._kill(f"could not load its engine: {event.failure.message}", now)
        if self._worker is WorkerState.PROBING:
            return self._kill(f"could not render the probe clip: {event.failure.message}", now)
        if self._probe and self._probe.probe_id == event.render_id:
            failed = self._end_probe(event.failure)
            return [*failed, *self._kill(f"could not render the probe clip: {event.failure.message}", now)]
        attempt = self._rendering(event.render_id)
        if attempt is None:
            return []
        ended = self._end(attempt.ending or event.failure)
        if self._poisoned_by(event.failure.fault):
            return [*ended, *self._kill(event.failure.message, now)]
        return ended

    def _poisoned_by(self, fault: Fault) -> bool:
        if fault is not Fault.OUT_OF_MEMORY:
            return fault is Fault.DEVICE
        again, self._ran_out_of_memory = self._ran_out_of_memory, True
        return again

    def _exited(self, event: events.WorkerExited, now: float) -> list[Instruction]:
        if self._worker is WorkerState.BACKOFF:
            return []
        if self._worker is not WorkerState.KILLED:
            self._failures += 1
            self._detail = f"{event.detail}; its last words: {event.last_words}" if event.last_words else event.detail
        self._start_at_s = now + self._terms.restart.delay_s(self._failures)
        self._enter(WorkerState.BACKOFF, now, self._detail)
        probed = self._end_probe(_death(event))
        if self.attempt is None:
            return probed
        if not self.attempt.rendering:
            return [StopFetching(self.attempt.work.ref), *self._end(_declined(f"its worker ended: {event.detail}"))]
        return self._end(self.attempt.ending or _death(event))

    def _rendering(self, render_id: str) -> Attempt | None:
        if self.attempt and self.attempt.rendering and str(self.attempt.work.ref) == render_id:
            return self.attempt
        return None

    def _kill(self, why: str, now: float, counts: bool = True) -> list[Instruction]:
        self._failures += counts
        self._enter(WorkerState.KILLED, now, why)
        return [KillWorker(self.index, self._generation, why)]

    def _enter(self, state: WorkerState, now: float, detail: str = "") -> None:
        self._worker, self._since_s, self._detail = state, now, detail

    # Time.

    def due(self, now: float, restart: bool) -> list[Instruction]:
        """What the passing of time asks for; a worker that is gone comes back only if `restart`."""
        if self._worker is WorkerState.BACKOFF:
            return self._start(now) if restart and now >= self._start_at_s else []
        attempt = self.attempt
        if attempt and attempt.ending and now >= attempt.kill_at_s and self._worker is not WorkerState.KILLED:
            why = f"did not let go of {attempt.work.ref} within {self._terms.cancel_grace_s:g} s"
            return [*self._end(attempt.ending), *self._kill(why, now, counts=False)]
        why = self._overdue(now)
        if not why:
            return []
        ended = self._end_probe(Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker {why}"))
        if attempt:
            fetching = [] if attempt.rendering else [StopFetching(attempt.work.ref)]
            outcome = attempt.ending or Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker {why}")
            ended = [*fetching, *self._end(outcome if attempt.rendering else _declined(f"its worker {why}"))]
        return [*ended, *self._kill(why, now)]

    def stood_still(self, seconds: float) -> None:
        """The agent did; nothing that the worker is given time for counts this."""
        self._since_s += seconds
        self._heard_at_s += seconds
        self._ticked_at_s += seconds
        if self._probe:
            self._probe = replace(self._probe, began_at_s=self._probe.began_at_s + seconds)
        if self.attempt:
            self.attempt.kill_at_s += seconds

    def _start(self, now: float) -> list[Instruction]:
        self._generation += 1
        self._ticks = -1
        self._heard_at_s = self._ticked_at_s = now
        self.engines, self.networks, self._realtime_factor = (), (), 0.0
        self._ran_out_of_memory = False
        self._enter(WorkerState.STARTING, now)
        return [StartWorker(self.index, self._generation)]

    def _overdue(self, now: float) -> str:
        terms = self._terms
        if self._worker is WorkerState.STARTING and now - self._since_s >= terms.load_timeout_s:
            return f"did not load its engine within {terms.load_timeout_s:g} s"
        if self._worker is WorkerState.PROBING and now - self._since_s >= terms.probe_timeout_s:
            return f"did not render the probe clip within {terms.probe_timeout_s:g} s"
        if self._worker is not WorkerState.READY:
            return ""
        if now - self._heard_at_s >= terms.silence_timeout_s:
            return f"gave no sign of life for {terms.silence_timeout_s:g} s"
        if self._probe and now - self._probe.began_at_s >= terms.probe_timeout_s:
            return f"did not render the probe clip within {terms.probe_timeout_s:g} s"
        rendering = self.attempt is not None and self.attempt.rendering
        if rendering and now - self._ticked_at_s >= terms.stall_timeout_s:
            return f"made no progress for {terms.stall_timeout_s:g} s"
        return ""


def _declined(why: str) -> Failure:
    return Failure(Fault.DECLINED, "DECLINED", why)


def _death(event: events.WorkerExited) -> Failure:
    if event.cause is events.ExitCause.OUT_OF_MEMORY:
        return Failure(Fault.OUT_OF_MEMORY, "OUT_OF_MEMORY", f"the worker ran out of memory: {event.detail}")
    return Failure(Fault.CRASH, "WORKER_CRASHED", f"the worker died: {event.detail}")
