"""A node that renders nothing: it speaks the real wire to a real hub, and thousands of it fit into one process.

It keeps leases, obeys cancels, drains and probes, and reports what it has finished until the hub has acknowledged it,
as a real agent does. What it does not do is fetch inputs, send metrics, or survive the end of its process.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from sonic.bundles import MOST_MESSAGES, unbundled
from sonic.simulated_line import Line, artifact_of, signed, slate
from sonic.simulated_profile import GIB, NodeProfile
from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import jobs_pb2, nodes_pb2

WELCOME_TIMEOUT_S = 15.0
RECONNECT_S, LONGEST_RECONNECT_S = 0.5, 5.0
REUPLOAD_S, RESEND_S = 1.0, 10.0
BEAT_GRID_S = 0.05  # heartbeats that fall due together wake the loop once
ECHO_EVERY = 12  # heartbeats
MOST_CACHED, MOST_PREPARED = 256, 8  # inputs, portraits
PREPARE_S, RESTART_S, PROBE_VIDEO_S = 0.4, 3.0, 0.5
SKEW_S = 180.0
XID = 79  # the GPU has fallen off the bus
LEAK_SHARE = 0.05  # of the GPU's memory, with each render
HEAT_SLOWDOWN, SLOW_SLOWDOWN = 4 / 3, 4.0
_POISONING = (
    jobs_pb2.FAULT_KIND_CRASH,
    jobs_pb2.FAULT_KIND_OUT_OF_MEMORY,
    jobs_pb2.FAULT_KIND_DEVICE,
    jobs_pb2.FAULT_KIND_TIMEOUT,
)
_log = logging.getLogger("sonic.simulated_node")
_FAULT_NAMES = {number: name.removeprefix("GAME_DAY_FAULT_").lower() for name, number in nodes_pb2.GameDayFault.items()}

Key = tuple[str, int]  # of an attempt: job_id and number


@dataclass(slots=True)
class _Attempt:
    """What a slot works on."""

    assignment: pb.Assignment
    timer: asyncio.TimerHandle | None = None
    teller: asyncio.TimerHandle | None = None  # of the progress
    began_s: float = 0.0
    render_s: float = 0.0  # of our clock
    prepared: bool = False  # the portrait, by an earlier render

    @property
    def key(self) -> Key:
        return (self.assignment.ref.job_id, self.assignment.ref.attempt)


@dataclass(slots=True)
class _Slot:
    index: int
    attempt: _Attempt | None = None
    probe_id: str = ""
    timer: asyncio.TimerHandle | None = None  # of the probe, or of its worker's restart
    restarting: bool = False

    @property
    def state(self) -> nodes_pb2.SlotState.ValueType:
        if self.attempt:
            return nodes_pb2.SLOT_STATE_BUSY
        return nodes_pb2.SLOT_STATE_STARTING if self.restarting else nodes_pb2.SLOT_STATE_READY


@dataclass(slots=True)
class _Finished:
    """A result that the hub has not acknowledged."""

    message: pb.AttemptResult
    tenant: str = ""
    video: bytes = b""  # that must be in the hub first
    told_s: float = 0.0  # of the loop's clock, when the hub was told last


@dataclass(slots=True)
class _Fault:
    ends_at_s: float
    timer: asyncio.TimerHandle


@dataclass(eq=False)
class SimulatedNode:
    """One node; `run` is its life. Made where a loop runs."""

    profile: NodeProfile
    line: Line
    rendered: int = 0  # videos that the hub has acknowledged
    failed: int = 0
    session_id: str = ""  # empty while not connected
    _outgoing: deque[bytes] = field(default_factory=deque)
    _outbox: dict[Key, _Finished] = field(default_factory=dict)
    _faults: dict[nodes_pb2.GameDayFault.ValueType, _Fault] = field(default_factory=dict)
    _cached: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _prepared: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chance = random.Random(self.profile.seed)  # noqa: S311 - no secret
        self._slots = [_Slot(index) for index in range(self.profile.slots)]
        engine = nodes_pb2.EngineInfo(engine=self.profile.engine, model_version=self.profile.model_version)
        self._engines = [engine]
        self._gpu_uuid = f"GPU-{self.profile.node_id}" if self.profile.gpu.name else ""
        self._call: Any = None
        self._writer: asyncio.Task[None] | None = None
        self._several = False  # whether the hub takes several messages as one
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat_timer: asyncio.TimerHandle | None = None
        self._beat_interval_s = 5.0
        self._beats = 0
        self._beat: bytes | None = None  # the next heartbeat but for what changes by itself
        self._echo_sent_s = 0.0
        self._round_trip_s = 0.0
        self._leaked_bytes = 0
        self._xids = 0
        self._drained = False
        self._leaving = False
        self._may_call = asyncio.Event()
        self._may_call.set()
        self.joined = asyncio.Event()  # set while a session stands

    @property
    def node_id(self) -> str:
        return self.profile.node_id

    @property
    def running(self) -> list[jobs_pb2.AttemptRef]:
        return [slot.attempt.assignment.ref for slot in self._slots if slot.attempt]

    @property
    def finished(self) -> list[jobs_pb2.AttemptRef]:
        """What the hub has not acknowledged."""
        return [result.message.ref for result in self._outbox.values()]

    @property
    def plays(self) -> set[nodes_pb2.GameDayFault.ValueType]:
        return set(self._faults)

    # Its life.

    async def run(self) -> None:
        """Call the hub, again and again, until it has left. Cancelling it is a crash."""
        failures = 0
        try:
            while not self._gone:
                await self._may_call.wait()
                try:
                    failures = 0 if await self._hold_session() else failures + 1
                except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                    failures += 1
                if not self._gone:
                    longest_s = min(RECONNECT_S * 2.0 ** min(failures, 10), LONGEST_RECONNECT_S)
                    await asyncio.sleep(self._chance.uniform(0, longest_s))
        finally:
            self._end()

    def leave(self) -> None:
        """Take nothing new, finish what runs, report it, and end the session for good."""
        if not self._leaving:
            self._leaving = True
            self._say(draining=pb.Draining(reason="the agent is stopping"))
            self._leave_if_done()

    def play(self, fault: nodes_pb2.GameDayFault.ValueType, seconds: float) -> None:
        """Suffer a fault for so long; 0 ends it."""
        name = _FAULT_NAMES.get(fault, str(fault))
        if playing := self._faults.pop(fault, None):
            playing.timer.cancel()
        if seconds > 0:
            _log.warning("fault begins", extra={"node_id": self.node_id, "fault": name, "seconds": seconds})
            timer = self._loop.call_later(seconds, self.play, fault, 0.0)
            self._faults[fault] = _Fault(self._loop.time() + seconds, timer)
            self._begin_fault(fault)
        elif playing:
            _log.warning("fault ended", extra={"node_id": self.node_id, "fault": name})
            self._end_fault(fault)
        self._changed(tell=True)

    @property
    def _gone(self) -> bool:
        return self._leaving and not self.running and not self._outbox

    def _begin_fault(self, fault: nodes_pb2.GameDayFault.ValueType) -> None:
        if fault == nodes_pb2.GAME_DAY_FAULT_XID:
            self._xids += 1
        if fault == nodes_pb2.GAME_DAY_FAULT_CUT:
            self._may_call.clear()
            if self._call:
                self._call.cancel()

    def _end_fault(self, fault: nodes_pb2.GameDayFault.ValueType) -> None:
        if fault == nodes_pb2.GAME_DAY_FAULT_LEAK:
            self._leaked_bytes = 0
        if fault == nodes_pb2.GAME_DAY_FAULT_XID:
            self._xids = 0
        if fault == nodes_pb2.GAME_DAY_FAULT_CUT:
            self._may_call.set()

    def _end(self) -> None:
        """Nothing of it goes on."""
        timers = [fault.timer for fault in self._faults.values()]
        timers += [slot.timer for slot in self._slots if slot.timer]
        for attempt in [slot.attempt for slot in self._slots if slot.attempt]:
            timers += [timer for timer in (attempt.timer, attempt.teller) if timer]
        for timer in timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    # The session.

    async def _hold_session(self) -> bool:
        """From Hello to the end of the session; whether there was one. Raises AioRpcError, TimeoutError."""
        moves, call = self.line.moves, self.line.session()
        try:
            async with self.line.opening, asyncio.timeout(WELCOME_TIMEOUT_S):
                await call.write(pb.SessionRequest(hello=self._hello()).SerializeToString())
                first = await call.read()
            if not isinstance(first, pb.SessionResponse) or not first.HasField("welcome"):
                return False
            if not self._may_call.is_set():  # cut meanwhile
                return False
            self._call = call
            self._welcomed(first.welcome)
            while isinstance(message := await call.read(), pb.SessionResponse):
                for each in unbundled(message):
                    self._take(each)
            return True
        except asyncio.CancelledError:
            if (current := asyncio.current_task()) and current.cancelling():
                raise
            return True  # the call was cancelled, by a cut
        finally:
            call.cancel()
            self.line.move_on(moves)
            self._session_ended()

    def _hello(self) -> pb.Hello:
        gpu = self.profile.gpu
        described = nodes_pb2.GpuInfo(
            uuid=self._gpu_uuid,
            name=gpu.name,
            memory_bytes=gpu.memory_bytes,
            driver_version=gpu.driver_version,
            vendor="nvidia",
        )
        return pb.Hello(
            node_id=self.node_id,
            region=self.profile.region,
            agent_version="simulated",
            gpus=[described] if gpu.name else [],
            slots=self._slot_messages(),
            running=self.running,
            finished=self.finished,
            draining=self._leaving,
            plays_faults=self.profile.plays_faults,
            cached_sha256=list(reversed(self._cached)),
            takes_several=True,
        )

    def _welcomed(self, welcome: pb.Welcome) -> None:
        self.session_id, self._several = welcome.session_id, welcome.takes_several
        self._drained = False  # a drain that still holds is said again
        self._beat_interval_s = welcome.heartbeat_interval_seconds or 5.0
        self._beat_later(self._chance.uniform(0, self._beat_interval_s))
        for slot in self._slots:
            if slot.attempt and slot.attempt.began_s:
                self._tell_start(slot.attempt)
        for result in list(self._outbox.values()):
            self._report(result)
        self.joined.set()
        self._leave_if_done()

    def _session_ended(self) -> None:
        self.joined.clear()
        self._call, self.session_id = None, ""
        self._outgoing.clear()
        if self._beat_timer:
            self._beat_timer.cancel()
        if self._writer:
            self._writer.cancel()
            self._writer = None

    def _say(self, **message: Any) -> None:
        """Said in the session that stands; what a cut swallows is said again after it, if it matters."""
        if self._call:
            self._say_bytes(pb.SessionRequest(**message).SerializeToString())

    def _say_bytes(self, message: bytes) -> None:
        self._outgoing.append(message)
        if not self._writer:
            self._writer = self._loop.create_task(self._write(self._call), name=f"writer of {self.node_id}")

    async def _write(self, call: Any) -> None:
        try:
            while self._outgoing:
                await call.write(self._next())
            if self._gone:
                await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader has the reason
        self._writer = None

    def _next(self) -> bytes:
        """What is to be said next; what waits behind it is merged into it."""
        first = self._outgoing.popleft()
        if not self._several or not self._outgoing:
            return first
        count = min(len(self._outgoing), MOST_MESSAGES - 1)
        more = [pb.SessionRequest.FromString(self._outgoing.popleft()) for _ in range(count)]
        return first + pb.SessionRequest(more=more).SerializeToString()

    def _leave_if_done(self) -> None:
        if self._gone and self._call:
            self._say_bytes(pb.SessionRequest().SerializeToString())  # nothing, and then the end

    def _take(self, message: pb.SessionResponse) -> None:
        match message.WhichOneof("message"):
            case "assignment":
                self._assigned(message.assignment)
            case "result_ack":
                self._acknowledged(message.result_ack)
            case "cancel":
                self._cancelled(message.cancel.ref)
            case "probe":
                self._probe(message.probe)
            case "play_fault" if self.profile.plays_faults:
                self.play(message.play_fault.fault, message.play_fault.seconds)
            case "echo":
                self._round_trip_s = self._loop.time() - self._echo_sent_s
            case "drain":
                self._drained = True
            case "resume":
                self._drained = False

    # Heartbeats.

    def _changed(self, tell: bool = False) -> None:
        """The next heartbeat is another one; `tell` sends it now, for what the hub cannot know otherwise."""
        self._beat = None
        if tell and self._call:
            self._say_bytes(self._heartbeat())

    def _beat_later(self, delay_s: float) -> None:
        at_s = math.ceil((self._loop.time() + delay_s) / BEAT_GRID_S) * BEAT_GRID_S
        self._beat_timer = self._loop.call_at(at_s, self._beat_now)

    def _beat_now(self) -> None:
        self._beats += 1
        if self._beats % ECHO_EVERY == 1:
            self._beat = None
        self._say_bytes(self._heartbeat())
        for result in self._outbox.values():
            if 0 < result.told_s < self._loop.time() - RESEND_S:
                self._tell_result(result)
        self._beat_later(self._beat_interval_s)

    def _heartbeat(self) -> bytes:
        """Two halves of one message, which parsers merge: what stays the same is kept as bytes."""
        if self._beat is None:
            kept = pb.Heartbeat(
                slots=self._slot_messages(), attempts=[*self.running, *self.finished], health=self._health()
            )
            self._beat = pb.SessionRequest(heartbeat=kept).SerializeToString()
        said = pb.Heartbeat()
        skewed = nodes_pb2.GAME_DAY_FAULT_SKEW in self._faults
        said.sent_at.FromNanoseconds(time.time_ns() + (int(SKEW_S * 1e9) if skewed else 0))
        if self._beats % ECHO_EVERY == 1:
            said.echo, self._echo_sent_s = self._beats, self._loop.time()
        for fault, playing in self._faults.items():
            left_s = playing.ends_at_s - self._loop.time()
            said.faults.append(nodes_pb2.PlayFault(fault=fault, seconds=max(left_s, 0.001)))
        return self._beat + pb.SessionRequest(heartbeat=said).SerializeToString()

    def _slot_messages(self) -> list[nodes_pb2.Slot]:
        return [
            nodes_pb2.Slot(
                index=slot.index,
                state=slot.state,
                attempt=slot.attempt.assignment.ref if slot.attempt else None,
                probe_realtime_factor=self.profile.realtime_factor,
                engines=self._engines,
                gpu_uuid=self._gpu_uuid,
                detail="its worker starts again" if slot.restarting else "",
            )
            for slot in self._slots
        ]

    def _health(self) -> nodes_pb2.NodeHealth:
        busy = len(self.running) / len(self._slots)
        gpus = []
        if self._gpu_uuid:
            hot = nodes_pb2.GAME_DAY_FAULT_HEAT in self._faults
            used_bytes = sum(self._needed_bytes(slot.attempt) for slot in self._slots if slot.attempt)
            gpus.append(
                nodes_pb2.GpuHealth(
                    uuid=self._gpu_uuid,
                    utilization_percent=2 + 93 * busy,
                    memory_used_bytes=GIB // 2 + used_bytes + self._leaked_bytes,
                    temperature_celsius=96 if hot else 48 + 22 * busy,
                    throttle_reasons=["thermal"] if hot else [],
                    xid_events={XID: self._xids} if self._xids else {},
                )
            )
        return nodes_pb2.NodeHealth(
            cpu_percent=3 + 20 * busy,
            memory_available_bytes=16 * GIB,
            disk_free_bytes=200 * GIB,
            gpus=gpus,
            round_trip_seconds=self._round_trip_s,
        )

    # Work.

    def _assigned(self, assignment: pb.Assignment) -> None:
        attempt = _Attempt(assignment)
        if attempt.key in self._outbox or any(slot.attempt and slot.attempt.key == attempt.key for slot in self._slots):
            return
        if why := self._why_not(assignment):
            self._finish(assignment.ref, failure=_failure(jobs_pb2.FAULT_KIND_DECLINED, why))
            self._changed(tell=True)
            return
        slot = self._slots[assignment.slot]
        slot.attempt = attempt
        if slot.probe_id:
            self._probed(slot, failure=_failure(jobs_pb2.FAULT_KIND_DECLINED, "it got work"))
        self._beat = None
        missing_bytes = self._cache(assignment)
        self._after(missing_bytes / self.profile.bytes_per_s, attempt, self._render, slot, attempt)

    def _why_not(self, assignment: pb.Assignment) -> str:
        if self._leaving:
            return "the agent is stopping"
        if self._drained:
            return "the node is drained"
        if not 0 <= assignment.slot < len(self._slots):
            return f"there is no slot {assignment.slot}; the node has {len(self._slots)}, counted from 0"
        if self._slots[assignment.slot].state != nodes_pb2.SLOT_STATE_READY:
            return f"slot {assignment.slot} is not free"
        spec, has = assignment.spec, self.profile
        if spec.engine not in ("", has.engine) or spec.model_version not in ("", has.model_version):
            return f"{spec.engine} {spec.model_version} is not loaded, only {has.engine} {has.model_version}"
        return ""

    def _cache(self, assignment: pb.Assignment) -> int:
        """Note the inputs as used last; how many bytes of them had to come from the hub."""
        missing = 0
        for artifact in (assignment.portrait, assignment.voice):
            if artifact.sha256 not in self._cached:
                missing += artifact.size_bytes
            _use(self._cached, artifact.sha256, MOST_CACHED)
        return missing

    def _render(self, slot: _Slot, attempt: _Attempt) -> None:
        portrait = attempt.assignment.spec.portrait_sha256
        attempt.prepared = portrait in self._prepared
        seconds = (0.0 if attempt.prepared else PREPARE_S) + self._video_s(attempt) / self.profile.realtime_factor
        seconds *= max(self._chance.gauss(1, self.profile.jitter), 0.2) * self._slowdown
        _use(self._prepared, portrait, MOST_PREPARED)
        attempt.began_s, attempt.render_s = self._loop.time(), self.profile.real_s(seconds)
        self._tell_start(attempt)
        if fault := self._what_goes_wrong(attempt):
            seconds *= self._chance.random()
            self._after(seconds, attempt, self._fail, slot, attempt, fault)
        else:
            self._after(seconds, attempt, self._succeed, slot, attempt)
        self._tell_progress(attempt)

    def _after(self, seconds: float, attempt: _Attempt, then: Callable[..., None], *about: Any) -> None:
        """At once when it takes no time, so that jobs without work measure the hub and not this loop."""
        real_s = self.profile.real_s(seconds)
        if real_s > 0:
            attempt.timer = self._loop.call_later(real_s, then, *about)
        else:
            then(*about)

    @property
    def _slowdown(self) -> float:
        slowdown = 1.0
        if nodes_pb2.GAME_DAY_FAULT_HEAT in self._faults:
            slowdown *= HEAT_SLOWDOWN
        if nodes_pb2.GAME_DAY_FAULT_SLOW in self._faults:
            slowdown *= SLOW_SLOWDOWN
        return slowdown

    def _video_s(self, attempt: _Attempt) -> float:
        return attempt.assignment.spec.parameters.duration or self.profile.video_s

    def _needed_bytes(self, attempt: _Attempt) -> int:
        side = attempt.assignment.spec.parameters.min_resolution or 512
        return 2 * GIB + 4096 * side * side

    def _what_goes_wrong(self, attempt: _Attempt) -> jobs_pb2.JobFailure | None:
        memory_bytes = self.profile.gpu.memory_bytes
        if nodes_pb2.GAME_DAY_FAULT_XID in self._faults:
            self._xids += 1
            return _failure(jobs_pb2.FAULT_KIND_DEVICE, f"Xid {XID}: the GPU has fallen off the bus")
        if nodes_pb2.GAME_DAY_FAULT_LEAK in self._faults:
            self._leaked_bytes += int(LEAK_SHARE * memory_bytes)
        if memory_bytes and self._needed_bytes(attempt) + self._leaked_bytes > memory_bytes:
            return _failure(jobs_pb2.FAULT_KIND_OUT_OF_MEMORY, f"of {memory_bytes} bytes too few are free")
        for kind, rate in self.profile.fail_rates:
            if self._chance.random() < rate:
                return _failure(kind, "this simulated node fails now and then")
        return None

    def _tell_start(self, attempt: _Attempt) -> None:
        if self.profile.tells_start:
            self._say(started=pb.AttemptStarted(ref=attempt.assignment.ref))

    def _tell_progress(self, attempt: _Attempt) -> None:
        """And again, as long as it renders."""
        if not self.profile.progress_interval_s or not attempt.render_s:
            return
        share = min((self._loop.time() - attempt.began_s) / attempt.render_s, 1.0)
        progress = jobs_pb2.Progress(stage="rendering", done=int(100 * share), total=100, fraction=0.02 + 0.93 * share)
        self._say(progress=pb.AttemptProgress(ref=attempt.assignment.ref, progress=progress))
        attempt.teller = self._loop.call_later(self.profile.progress_interval_s, self._tell_progress, attempt)

    def _succeed(self, slot: _Slot, attempt: _Attempt) -> None:
        self._free(slot)
        ref = attempt.assignment.ref
        video = signed(ref, self.node_id) if self.profile.own_videos else slate()
        rendered = pb.RenderedVideo(video=artifact_of(video), report=self._report_of(attempt))
        self._finish(ref, attempt.assignment.tenant, video, video=rendered)

    def _fail(self, slot: _Slot, attempt: _Attempt, failure: jobs_pb2.JobFailure) -> None:
        self._free(slot)
        self.failed += 1
        self._finish(attempt.assignment.ref, failure=failure)
        if failure.fault in _POISONING:
            self._restart(slot)

    def _restart(self, slot: _Slot) -> None:
        """Its worker is not trusted with another render; a new one has no memory leaked yet."""
        slot.restarting = True
        self._leaked_bytes = 0
        self._changed(tell=True)
        slot.timer = self._loop.call_later(self.profile.real_s(RESTART_S), self._restarted, slot)

    def _restarted(self, slot: _Slot) -> None:
        slot.restarting, slot.timer = False, None
        self._changed(tell=True)

    def _free(self, slot: _Slot) -> None:
        if attempt := slot.attempt:
            for timer in (attempt.timer, attempt.teller):
                if timer:
                    timer.cancel()
        slot.attempt = None
        self._beat = None

    def _report_of(self, attempt: _Attempt) -> jobs_pb2.RenderReport:
        parameters = attempt.assignment.spec.parameters
        side, fps, video_s = parameters.min_resolution or 512, parameters.fps or 25, self._video_s(attempt)
        speedup = self.profile.speedup
        took_s = 0.0 if math.isinf(speedup) else (self._loop.time() - attempt.began_s) * speedup
        preparing_s = 0.0 if attempt.prepared else min(PREPARE_S, took_s)
        stages = {"preparing": preparing_s, "rendering": 0.97 * (took_s - preparing_s)}
        stages["checking"] = took_s - sum(stages.values())
        return jobs_pb2.RenderReport(
            engine=self.profile.engine,
            model_version=self.profile.model_version,
            width=side,
            height=side,
            frames=max(round(video_s * fps), 1),
            fps=fps,
            video_seconds=video_s,
            audio_seconds=video_s,
            stages=[jobs_pb2.StageTime(stage=name, seconds=seconds) for name, seconds in stages.items()],
            peak_memory_bytes=self._needed_bytes(attempt),
            portrait_was_prepared=attempt.prepared,
        )

    def _cancelled(self, ref: jobs_pb2.AttemptRef) -> None:
        key = (ref.job_id, ref.attempt)
        if key in self._outbox:
            return  # its result is on its way, and is answered
        for slot in self._slots:
            if slot.attempt and slot.attempt.key == key:
                self._free(slot)
        self._finish(ref, stopped=pb.Stopped())

    # Results.

    def _finish(self, ref: jobs_pb2.AttemptRef, tenant: str = "", video_bytes: bytes = b"", **outcome: Any) -> None:
        result = _Finished(pb.AttemptResult(ref=ref, **outcome), tenant, video_bytes)
        self._outbox[ref.job_id, ref.attempt] = result
        self._beat = None
        self._report(result)

    def _report(self, result: _Finished) -> None:
        if not self._call:
            return
        if result.video and (self.profile.own_videos or not self.line.holds_slate(result.tenant)):
            self._begin(self._upload(result), f"upload of {result.message.ref.job_id}")
        else:
            self._tell_result(result)

    def _tell_result(self, result: _Finished) -> None:
        result.told_s = self._loop.time()
        self._say(result=result.message)

    async def _upload(self, result: _Finished) -> None:
        """A hub that refuses the video judges the result without it."""
        ref = result.message.ref
        try:
            if self.profile.own_videos:
                await self.line.upload(result.video, self.node_id, ref)
            else:
                await self.line.bring_slate(result.tenant, self.node_id, ref)
        except grpc.aio.AioRpcError as error:
            _log.info("upload failed", extra={"node_id": self.node_id, "why": error.details()})
            await asyncio.sleep(REUPLOAD_S)
        if (ref.job_id, ref.attempt) in self._outbox:
            self._tell_result(result)

    def _acknowledged(self, ack: pb.ResultAck) -> None:
        key = (ack.ref.job_id, ack.ref.attempt)
        result = self._outbox.get(key)
        if result is None:
            return
        if ack.verdict == pb.RESULT_VERDICT_VIDEO_MISSING and result.video:
            self.line.lost_slate(result.tenant)
            self._report(result)
            return
        del self._outbox[key]
        self._beat = None
        self.rendered += bool(result.video) and ack.verdict == pb.RESULT_VERDICT_COMMITTED
        self._leave_if_done()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._watch)

    def _watch(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            _log.error("a task failed", extra={"node_id": self.node_id}, exc_info=task.exception())

    # Probes.

    def _probe(self, probe: pb.Probe) -> None:
        slot = self._slots[probe.slot] if 0 <= probe.slot < len(self._slots) else None
        if slot is None or slot.state != nodes_pb2.SLOT_STATE_READY or slot.probe_id:
            declined = _failure(jobs_pb2.FAULT_KIND_DECLINED, f"slot {probe.slot} is not free")
            self._say(probed=pb.ProbeResult(probe_id=probe.probe_id, slot=probe.slot, failure=declined))
            return
        slot.probe_id = probe.probe_id
        took_s = PROBE_VIDEO_S / self.profile.realtime_factor * self._slowdown
        slot.timer = self._loop.call_later(self.profile.real_s(took_s), self._end_probe, slot, took_s)

    def _end_probe(self, slot: _Slot, took_s: float) -> None:
        if nodes_pb2.GAME_DAY_FAULT_XID in self._faults:
            self._xids += 1
            broken = _failure(jobs_pb2.FAULT_KIND_DEVICE, f"Xid {XID}: the GPU has fallen off the bus")
            self._probed(slot, failure=broken)
            self._restart(slot)
            return
        has = self.profile
        clip = pb.ProbeClip(realtime_factor=PROBE_VIDEO_S / took_s, digest=f"{has.engine}-{has.model_version}")
        self._probed(slot, clip=clip)

    def _probed(self, slot: _Slot, **outcome: Any) -> None:
        if slot.timer:
            slot.timer.cancel()
        self._say(probed=pb.ProbeResult(probe_id=slot.probe_id, slot=slot.index, **outcome))
        slot.probe_id, slot.timer = "", None


def _failure(kind: jobs_pb2.FaultKind.ValueType, message: str) -> jobs_pb2.JobFailure:
    reason = jobs_pb2.FaultKind.Name(kind).removeprefix("FAULT_KIND_")
    return jobs_pb2.JobFailure(fault=kind, reason=reason, message=message)


def _use(kept: OrderedDict[str, None], name: str, most: int) -> None:
    """Note as used last, and forget what was not used for longest."""
    kept[name] = None
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)
