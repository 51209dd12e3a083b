"""A simulated edge box: renders what it is given at its own pace, keeps results until they are stored, and breaks.

It does what the agent does (agent/core), in short: it declines what it cannot take, reports from an outbox that
outlives it, comes back with growing pauses, and tells the hub what it runs and what it has finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hub.core import events, instructions
from hub.core.faults import Failure, Fault
from hub.core.jobs import Job, Progress, Ref, Requirement
from hub.core.nodes import Gpu, Slot, SlotState
from hub.simulation.network import LIMP_S, Session
from hub.simulation.world import World

if TYPE_CHECKING:
    from hub.simulation.fleet import Fleet

HEARTBEAT_S = 5.0
RESEND_S = 15.0
STALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
CANCEL_GRACE_S = 5.0
LOAD_S = 4.0
PROBE_VIDEO_S = 0.5
PROBE_DIGEST = "probe"
GIB = 1 << 30
STOPPED = Failure(Fault.UNSPECIFIED, "STOPPED", "stopped")


@dataclass(frozen=True)
class Model:
    """What kind of box it is."""

    gpu_class: str  # empty for a box without a GPU
    memory_bytes: int
    work_s_per_video_s: float  # at 512 px


@dataclass(frozen=True)
class Welcome:
    """The hub has taken the session."""


@dataclass(frozen=True)
class Hello:
    """The first message of a session."""

    slots: tuple[Slot, ...]
    running: tuple[Ref, ...]
    finished: tuple[Ref, ...]
    gpus: tuple[Gpu, ...]
    inputs: tuple[str, ...]


@dataclass
class Attempt:
    """What holds a slot."""

    ref: Ref
    job: Job
    rendering: bool = False
    began_at_s: float = 0.0
    warm: bool = False
    stopping: bool = False


@dataclass
class Report:
    """What lies in the outbox: a video's measurements, or why there is none."""

    failure: Failure | None
    rendered: events.Rendered | None = None
    uploaded: bool = False
    uploading: bool = False
    sent_at_s: float = -1e9


@dataclass
class Ills:
    """What is wrong with the box at the moment."""

    slow: float = 1.0
    breaks: float = 0.0  # share of renders that crash
    disk_full: bool = False
    hung: bool = False  # its workers stand still
    frozen_until_s: float = 0.0  # the whole box stands still
    clock_off_s: float = 0.0  # what a jump of its clock adds to what it measures
    ended: list[str] = field(default_factory=list)


class SimulatedNode:
    """One agent and its workers."""

    def __init__(
        self, fleet: Fleet, name: str, region: str, model: Model, slots: int, offers: tuple[Requirement, ...]
    ) -> None:
        self.name, self.region, self.model, self.offers = name, region, model, offers
        self.ills = Ills()
        self.up = False
        self.session: Session | None = None
        self.outbox: dict[Ref, Report] = {}  # survives
        self.cached: dict[str, None] = {}  # survives
        self.prepared: dict[str, None] = {}
        self.running: dict[int, Attempt] = {}
        self.slots = {i: Slot(i, SlotState.STARTING, offers, 0.0, "", f"{name}-{i}") for i in range(slots)}
        gpus = [Gpu(f"{name}-{i}", model.gpu_class, model.memory_bytes) for i in range(slots)]
        self.gpus = tuple(gpus) if model.gpu_class else ()
        self.renders_s = 0.0  # seconds of work done, for whatever end
        self._fleet = fleet
        self._world: World = fleet.world
        self._life = 0
        self._drained = False
        self._failures = 0
        self._welcome = False  # in this session
        self._welcomed_at_s = 0.0
        self._heartbeats = 0

    # Life.

    def start(self) -> None:
        """The agent begins: nothing runs, what was finished is still there."""
        if self.up:
            return
        self.up = True
        self._life += 1
        self._tell("starts")
        for index in self.slots:
            self._restart_worker(index)
        for report in self.outbox.values():
            report.uploading, report.sent_at_s = False, -1e9
        self._connect()

    def crash(self, comes_back_in_s: float, power_lost: bool) -> None:
        """The agent, or the box with it, is gone at once."""
        if not self.up:
            return
        self._tell("loses power" if power_lost else "crashes")
        self.up = False
        self._life += 1
        self.running.clear()
        self.prepared.clear()
        if self.session:
            self.session.close_at_node(LIMP_S if power_lost else self._world.random.uniform(0, 0.5))
            self.session = None
        self._world.after(comes_back_in_s, self.start)

    def freeze(self, seconds: float) -> None:
        """Everything on the box stands still for so long; then it goes on as if nothing had been."""
        self._tell(f"stands still for {seconds:.0f} s")
        self.ills.frozen_until_s = max(self.ills.frozen_until_s, self._world.now + seconds)

    def jump_clock(self, seconds: float) -> None:
        """Its clock jumps: timers that it passes go off, and what is being measured is wrong."""
        self._tell(f"its clock jumps by {seconds:+.0f} s")
        self.ills.clock_off_s += seconds
        if seconds > 0 and self.session:
            self._beat()
            for ref in list(self.outbox):
                self._send(ref, again=True)

    def heal(self) -> None:
        """All ills are over."""
        hung, self.ills = self.ills.hung, Ills()
        for index, attempt in list(self.running.items()) if hung else []:
            if attempt.rendering:
                self._after(1.0, self._finish, index, attempt.ref)

    # Conversation.

    def take(self, session: Session, message: Any) -> None:
        """Something has come from the hub."""
        if self.ills.frozen_until_s > self._world.now:
            self._world.after(self.ills.frozen_until_s - self._world.now, self.take, session, message)
            return
        if session is not self.session or not session.node_open:
            return
        match message:
            case Welcome():
                self._welcomed()
            case instructions.Assign(ref, _, _, slot):
                self._assigned(ref, slot)
            case instructions.StopAttempt(_, ref):
                self._stop(ref)
            case instructions.Acknowledge(_, ref, verdict):
                self._acknowledged(ref, verdict)
            case instructions.TellDrain(_, drain):
                self._drained = drain
            case instructions.SendProbe():
                self._probe(message)

    def ended(self, session: Session) -> None:
        """The stream is gone."""
        if session is not self.session:
            return
        self.session = None
        for report in self.outbox.values():
            report.sent_at_s = -1e9
        self._tell(f"notices that {session.session_id} has ended")
        self._try_again()

    def lose_line(self) -> None:
        """Nothing has come through for so long that the agent gives the stream up."""
        if self.session and self._fleet.network.is_cut(self.name):
            session = self.session
            session.close_at_node(LIMP_S)
            self.ended(session)

    def _try_again(self) -> None:
        steady = self._welcomed_at_s and self._world.now - self._welcomed_at_s >= 30
        self._failures = 1 if steady else self._failures + 1
        pause_s = min(2.0 * 2 ** min(self._failures - 1, 5), 7.5)
        self._after(self._world.random.random() * pause_s, self._connect)

    def _connect(self) -> None:
        if self.session:
            return
        hub = self._fleet.hub_for(self)
        if hub is None or self._fleet.network.is_cut(self.name):
            self._welcomed_at_s = 0.0
            self._after(self._world.random.uniform(0, 2), self._try_again)
            return
        self.session, self._welcome = self._fleet.network.open(self, hub), False
        finished = tuple(self.outbox)
        running = tuple(attempt.ref for attempt in self.running.values())
        self._welcomed_at_s = self._world.now
        self.session.to_hub(Hello(self._view(), running, finished, self.gpus, tuple(reversed(self.cached))))
        self._after(CONNECT_TIMEOUT_S, self._give_up, self.session)

    def _give_up(self, session: Session) -> None:
        if session is self.session and not self._welcome:
            session.close_at_node(0.0)
            self.ended(session)

    def _welcomed(self) -> None:
        self._drained, self._welcome = False, True
        for attempt in self.running.values():
            if attempt.rendering:
                self._say(events.AttemptStarted(self.name, attempt.ref))
        for ref in list(self.outbox):
            self._send(ref)
        self._heartbeats += 1
        self._next_beat(self._heartbeats)

    def _next_beat(self, number: int) -> None:
        if self.session and number == self._heartbeats:
            self._beat()
            self._after(HEARTBEAT_S, self._next_beat, number)

    def _beat(self) -> None:
        held = (*(attempt.ref for attempt in self.running.values()), *self.outbox)
        if self.session:
            self.session.to_hub(events.NodeHeard(self.name, self.session.session_id, self._view(), held))

    def _view(self) -> tuple[Slot, ...]:
        return tuple(
            replace(slot, state=SlotState.BUSY) if index in self.running else slot for index, slot in self.slots.items()
        )

    def _say(self, event: events.Event) -> None:
        if self.session:
            self.session.to_hub(event)

    # Attempts.

    def _assigned(self, ref: Ref, slot: int) -> None:
        if ref in self.outbox or any(attempt.ref == ref for attempt in self.running.values()):
            return
        if self._drained or slot in self.running or self.slots[slot].state is not SlotState.READY:
            why = "drained" if self._drained else f"slot {slot} is not free"
            self._report(ref, Report(Failure(Fault.DECLINED, "DECLINED", why)))
            return
        self._tell(f"takes {ref.job_id}#{ref.attempt} into slot {slot}", ref.job_id)
        job = self._fleet.store.copy(ref.job_id)
        self.running[slot] = Attempt(ref, job)
        missing = sum(item.size_bytes for item in job.inputs if item.sha256 not in self.cached)
        self._after(self._transfer_s(missing) if missing else 0.0, self._fetched, slot, ref, self._world.now)

    def _fetched(self, slot: int, ref: Ref, began_at_s: float) -> None:
        attempt = self._running(slot, ref)
        if attempt is None:
            return
        if self._fleet.network.is_cut(self.name) or not self._fleet.hub_for(self):
            if self._world.now - began_at_s > 60:
                self._end(slot, Report(Failure(Fault.TRANSFER, "INPUTS_NOT_FETCHED", "no line to the hub")))
            else:
                self._after(3.0, self._fetched, slot, ref, began_at_s)
            return
        if self.ills.disk_full:
            self._end(slot, Report(Failure(Fault.TRANSFER, "INPUTS_NOT_KEPT", "no space left on device")))
            return
        for item in attempt.job.inputs:
            self.cached[item.sha256] = None
        attempt.rendering, attempt.began_at_s = True, self._world.now
        attempt.warm = bool(attempt.job.inputs) and attempt.job.inputs[0].sha256 in self.prepared
        self._say(events.AttemptStarted(self.name, ref))
        work_s = self.work_s(attempt.job, attempt.warm)
        failure = self._failure_of(attempt.job)
        if failure:
            self._after(work_s * self._world.random.random(), self._fail, slot, ref, failure)
            return
        self._after(work_s * 0.5, self._progress, slot, ref, 0.5)
        self._after(work_s, self._finish, slot, ref)

    def work_s(self, job: Job, warm: bool) -> float:
        """What a render takes here, as things are."""
        noise = self._world.random.lognormvariate(0, 0.08)
        rate = self.model.work_s_per_video_s * float((job.work.side_px / 512) ** 1.6)
        return (0.2 + rate * job.work.video_s + (0 if warm else self.model.work_s_per_video_s)) * noise * self.ills.slow

    def _failure_of(self, job: Job) -> Failure | None:
        truth = self._fleet.truths[job.job_id]
        if truth.bad_input:
            return Failure(Fault.BAD_INPUT, "NO_FACE", "there is no face in the portrait")
        if truth.poison or self._world.random.random() < self.ills.breaks:
            return Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died of signal 11")
        if self.model.memory_bytes and self.model.memory_bytes < truth.memory_bytes:
            return Failure(Fault.OUT_OF_MEMORY, "OUT_OF_MEMORY", "CUDA out of memory")
        return None

    def _progress(self, slot: int, ref: Ref, share: float) -> None:
        if self._running(slot, ref) and not self.ills.hung:
            self._say(events.AttemptProgressed(self.name, ref, Progress("rendering", 0, 0, share)))

    def _fail(self, slot: int, ref: Ref, failure: Failure) -> None:
        attempt = self._running(slot, ref)
        if attempt and not attempt.stopping:
            self._end(slot, Report(failure))
            if failure.fault.worker_restarts:
                self._restart_worker(slot)
            self._beat()

    def _finish(self, slot: int, ref: Ref) -> None:
        attempt = self._running(slot, ref)
        if attempt is None or attempt.stopping:
            return
        if self.ills.hung:
            hung = Failure(Fault.TIMEOUT, "WORKER_HUNG", f"the worker made no progress for {STALL_TIMEOUT_S:g} s")
            self._after(STALL_TIMEOUT_S, self._fail, slot, ref, hung)
            return
        if self.ills.disk_full:
            kept = Failure(Fault.TRANSFER, "RESULT_NOT_KEPT", "the node could not keep the video: no space left")
            self._end(slot, Report(kept))
            return
        took_s = self._world.now - attempt.began_at_s + self.ills.clock_off_s
        preparing_s = 0.0 if attempt.warm else self.model.work_s_per_video_s * self.ills.slow
        memory = self._fleet.truths[ref.job_id].memory_bytes if self.model.memory_bytes else 0
        video_s = attempt.job.work.video_s
        rendered = events.Rendered(video_s, max(took_s - preparing_s, 0.0), preparing_s, attempt.warm, memory)
        if attempt.job.inputs:
            self.prepared[attempt.job.inputs[0].sha256] = None
            if len(self.prepared) > 4:
                del self.prepared[next(iter(self.prepared))]
        self._end(slot, Report(None, rendered))

    def _end(self, slot: int, report: Report) -> None:
        attempt = self.running.pop(slot)
        if attempt.rendering:
            self.renders_s += self._world.now - attempt.began_at_s
        self._report(attempt.ref, report)

    def _stop(self, ref: Ref) -> None:
        for slot, attempt in self.running.items():
            if attempt.ref == ref and not attempt.stopping:
                attempt.stopping = True
                hangs = self.ills.hung and attempt.rendering
                self._after(
                    CANCEL_GRACE_S if hangs else self._world.random.uniform(0.02, 0.8), self._stopped, slot, ref
                )
                return
        report = self.outbox.get(ref)
        if report is None or (report.failure is None and not report.uploaded):
            self._report(ref, Report(STOPPED))

    def _stopped(self, slot: int, ref: Ref) -> None:
        if self._running(slot, ref):
            self._end(slot, Report(STOPPED))
            if self.ills.hung:
                self._restart_worker(slot)
            self._beat()

    def _running(self, slot: int, ref: Ref) -> Attempt | None:
        attempt = self.running.get(slot)
        return attempt if attempt and attempt.ref == ref else None

    # Results.

    def _report(self, ref: Ref, report: Report) -> None:
        self.outbox[ref] = report
        if self._world.story:
            what = report.failure.reason if report.failure else "a video"
            self._tell(f"keeps {what} for {ref.job_id}#{ref.attempt}", ref.job_id)
        self._send(ref)

    def _send(self, ref: Ref, again: bool = False) -> None:
        """Upload what has to be, report, and say it again until it is acknowledged."""
        report = self.outbox.get(ref)
        if report is None or self.session is None:
            return
        if report.failure is None and not report.uploaded:
            if not report.uploading:
                report.uploading = True
                self._after(self._transfer_s(2_000_000), self._uploaded, ref, report)
            return
        if not again and self._world.now - report.sent_at_s < RESEND_S:
            return
        report.sent_at_s = self._world.now
        if report.failure is STOPPED:
            self._say(events.AttemptStopped(self.name, ref))
        elif report.failure:
            self._say(events.AttemptFailed(self.name, ref, report.failure))
        else:
            self._say(events.AttemptSucceeded(self.name, ref, b"", report.rendered))
        self._after(RESEND_S + 0.01, self._send, ref)

    def _uploaded(self, ref: Ref, report: Report) -> None:
        report.uploading = False
        if self.outbox.get(ref) is not report:
            return
        if self._fleet.network.is_cut(self.name) or not self._fleet.hub_for(self):
            self._after(2.0, self._send, ref)
            return
        report.uploaded = True
        self._send(ref)

    def _acknowledged(self, ref: Ref, verdict: instructions.Verdict) -> None:
        if self.outbox.pop(ref, None) and self._world.story:
            self._tell(f"hears that {ref.job_id}#{ref.attempt} is {verdict.name.lower()}, and forgets it", ref.job_id)

    # Workers.

    def _restart_worker(self, slot: int) -> None:
        self.slots[slot] = replace(self.slots[slot], state=SlotState.STARTING)
        self._after(LOAD_S * self._world.random.uniform(0.5, 2), self._ready, slot)

    def _ready(self, slot: int) -> None:
        if slot not in self.running:
            speed = self._probe_speed()
            self.slots[slot] = replace(self.slots[slot], state=SlotState.READY, realtime_factor=speed)
            self._beat()

    def _probe_speed(self) -> float:
        took_s = PROBE_VIDEO_S * self.model.work_s_per_video_s * 0.25 + 0.1
        return PROBE_VIDEO_S / (took_s * self.ills.slow)

    def _probe(self, wanted: instructions.SendProbe) -> None:
        self._after(PROBE_VIDEO_S / self._probe_speed(), self._probed, wanted)

    def _probed(self, wanted: instructions.SendProbe) -> None:
        broken = self._world.random.random() < self.ills.breaks or self.ills.hung
        failure = Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died of signal 11") if broken else None
        speed = 0.0 if broken else self._probe_speed()
        self._say(
            events.Probed(self.name, wanted.probe_id, wanted.slot, speed, "" if broken else PROBE_DIGEST, failure)
        )

    # Time.

    def _transfer_s(self, size_bytes: int) -> float:
        line = self._fleet.network.lines[self.name]
        return size_bytes / line.bytes_per_s * line.slow

    def _after(self, seconds: float, act: Callable[..., None], *about: Any) -> None:
        self._world.after(seconds, self._act, self._life, act, about)

    def _act(self, life: int, act: Callable[..., None], about: tuple[Any, ...]) -> None:
        if life != self._life:
            return
        frozen_s = self.ills.frozen_until_s - self._world.now
        if frozen_s > 0:
            self._world.after(frozen_s, self._act, life, act, about)
        else:
            act(*about)

    def _tell(self, text: str, job_id: str = "") -> None:
        if self._world.story:
            self._world.tell(self.name, text, job_id, self.name)
