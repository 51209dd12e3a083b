"""One agent: events go to the decisions, what they want is carried out, and what comes of it is an event again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import cast

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from agent import gpus, http, transfers, wire
from agent.clock import Clock
from agent.config import AgentConfig
from agent.core import events
from agent.core import instructions as wants
from agent.core.attempts import Failure, Fault, Ref, Rendered, Work
from agent.core.game_day import GameDayFault
from agent.core.node import Node
from agent.core.sessions import SessionState
from agent.enrolment import Renewal, identity_of
from agent.errands import Errands
from agent.faults import Faults
from agent.folders import Folders, claimed
from agent.identity import Identity
from agent.inputs import Download, InputCorrupt, Inputs
from agent.metrics import NO_MODEL, NO_TENANT, Metrics
from agent.outbox import Outbox
from agent.probes import hardware
from agent.session import CLOSE_TIMEOUT_S, Session, open_line
from agent.spool import Spool
from agent.telemetry import Telemetry
from agent.workers import WorkerId, Workers
from sonic.exceptions import HubError
from sonic.lines import Line
from sonic.notify import Notifier
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc, nodes_pb2, worker_pb2
from sonic.v1 import fleet_service_pb2 as pb

TICK_S = 0.25
STOOD_STILL_S = 2.0  # without a single tick
MEASURE_INTERVAL_S = 5.0
SWEEP_INTERVAL_S = 2.0
REMOVAL_TRIES = 40
START_EXTENSION_S = 30.0
MOST_CACHED_TOLD = 256
_log = logging.getLogger("agent")


async def run(config: AgentConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait for what runs. Raises InvalidConfig."""
    with claimed(config.data_dir) as folders:
        identity = await identity_of(config)
        probes = await asyncio.to_thread(hardware.detect)
        async with open_line(config.hub_target, identity.credentials if identity else None) as line:
            agent = Agent(config, folders, hardware.Hardware(folders.data_dir, probes), line, identity)
            async with http.serving(
                config.http_listen, agent.metrics.registry, agent.not_ready, config.http_access
            ) as address:
                where = {"http": address, "hub": config.hub_target, "data_dir": str(config.data_dir)}
                _log.info("agent started", extra={"node_id": config.node_id, "region": config.region, **where})
                await agent.serve()
    _log.info("agent stopped", extra={"node_id": config.node_id})


class Agent:
    """The shell around the decisions."""

    def __init__(
        self, config: AgentConfig, folders: Folders, box: hardware.Hardware, line: Line, identity: Identity | None
    ) -> None:
        self.metrics = Metrics(config.region, config.node_id)
        self._config = config
        self._folders = folders
        self._box = box
        self._hub = fleet_service_pb2_grpc.FleetServiceStub(cast(grpc.aio.Channel, line))
        self._events: asyncio.Queue[events.Event] = asyncio.Queue()
        self._node = Node(config.terms)
        self._clock = Clock()
        self._telemetry = Telemetry(
            self.metrics,
            Spool(folders.metrics, config.metric_spool_max_bytes, config.metric_spool_max_age_s),
            self._clock,
        )
        self._renewal = Renewal(config, identity, self._hub, line) if identity else None
        refused = (self._renewal.refused,) if self._renewal else ()
        self._session = Session(self._hub, line, self._post, self._telemetry, *refused)
        self._workers = Workers(config.worker_command, config.engine, folders, self._post)
        self._faults = Faults(self._clock, self._workers.hold)
        self._inputs = Inputs(folders.inputs, config.cache_max_bytes, config.hub_target, config.keep_inputs_s)
        self._outbox = Outbox(folders.outbox)
        self._notifier = Notifier(os.environ)
        self._health = nodes_pb2.NodeHealth()
        self._gpus: list[nodes_pb2.GpuInfo] = []
        self._calls = 0
        self._tenants: dict[Ref, str] = {}  # who owns what is under way
        self._placed: set[Ref] = set()  # videos put directly; if that was not good enough, they go through the hub
        self._ends: dict[int, str] = {}  # slot -> why its last worker ended

    def not_ready(self) -> str:
        """Why no job can be taken now; empty when one can."""
        states = [view.state for view in self._node.slots]
        if self._node.leaving:
            return "the agent is stopping"
        if wants.SlotState.READY not in states and wants.SlotState.BUSY not in states:
            return "; ".join(f"slot {view.index}: {view.detail}" for view in self._node.slots)
        if self._node.session.state is not SessionState.UP:
            return f"no session with the hub: {self._node.session.detail or 'connecting'}"
        return ""

    # The life of an agent.

    async def serve(self) -> None:
        """Until everything that was asked for is done, or a second signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        self._gpus = await asyncio.to_thread(self._box.inventory)
        for ref in self._outbox.load():
            self._post(events.Kept(ref, self._outbox.result(ref).HasField("video")))
        async with asyncio.TaskGroup() as group:
            self._errands = Errands(group)
            self._errands.begin("clock", "agent", self._tick())
            self._errands.begin("probes", "agent", self._measure())
            self._errands.begin("sweep", "agent", self._sweep())
            self._errands.begin("sampling", "agent", self._telemetry.sample_at_intervals())
            self._errands.begin("samples", "agent", self._telemetry.send_what_waits())
            if self._renewal:
                self._errands.begin("renewal", "agent", self._renewal.run())
            await self._decide()
            await self._shut_down()

    async def _decide(self) -> None:
        handled_s = time.monotonic()
        while True:
            event = await self._events.get()
            now_s = time.monotonic()
            stood_s, handled_s = now_s - handled_s, now_s
            wanted = []
            if stood_s > STOOD_STILL_S:
                _log.warning("the agent stood still", extra={"seconds": round(stood_s, 1)})
                wanted = self._node.handle(events.StoodStill(stood_s), now_s)
            wanted += self._node.handle(event, now_s)
            if isinstance(event, events.WorkerExited):
                self._ends[event.slot] = event.cause.name.lower()
            if isinstance(event, events.WorkerLoaded):
                self.metrics.model(self._node.model_version or NO_MODEL)
                self._tell_health()
            for one in wanted:
                if isinstance(one, wants.Exit):
                    return
                self._carry_out(one)
            if isinstance(event, events.Ticked):
                self._observe()

    async def _shut_down(self) -> None:
        """The last samples and words to the hub, then the workers, then everything else."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._telemetry.flush()
        self._session.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._errands.over("session", "hub")
        except TimeoutError:
            _log.info("the hub did not end the session")
        self._errands.cancel("slowing", "workers")
        await self._errands.over("slowing", "workers")
        await self._workers.stop()
        self._errands.cancel_all()

    def _stop(self) -> None:
        _log.info("stopping", extra={"running": len(self._node.running), "outbox": len(self._node.deliveries)})
        self._notifier.stopping(self._config.drain_timeout_s + self._config.flush_timeout_s + START_EXTENSION_S)
        self._post(events.StopRequested())

    def _post(self, event: events.Event) -> None:
        self._events.put_nowait(event)

    async def _tick(self) -> None:
        while True:
            self._post(events.Ticked())
            await asyncio.sleep(TICK_S)

    async def _sweep(self) -> None:
        while True:
            self._inputs.sweep()
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def _measure(self) -> None:
        while True:
            self._health = await asyncio.to_thread(self._box.measure)
            self._tell_health()
            await asyncio.sleep(MEASURE_INTERVAL_S)

    def _tell_health(self) -> None:
        self.metrics.health(self._faults.over(self._health, self._gpus), self._gpus)
        self.metrics.probes(self._box.works)

    def _observe(self) -> None:
        """Tell the metrics and systemd how things are."""
        views = self._node.slots
        counts = Counter(view.state.name.lower() for view in views)
        self.metrics.slots({state.name.lower(): counts[state.name.lower()] for state in wants.SlotState})
        self.metrics.networks(self._node.networks)
        self.metrics.outbox(len(self._node.deliveries))
        self.metrics.workers(self._workers.memory_bytes())
        self.metrics.clock_offset(self._session.clock_offset_s + self._clock.skew_s)
        self._notifier.alive(time.monotonic())
        self._notifier.status(self.not_ready() or "ready")
        if counts["ready"] or counts["busy"]:
            self._notifier.ready()
        elif counts["starting"] == len(views):
            self._notifier.starting(START_EXTENSION_S, time.monotonic())

    # What the decisions want.

    def _carry_out(self, one: wants.Instruction) -> None:
        match one:
            case wants.Connect():
                self._connect(one)
            case wants.SendHeartbeat():
                self._session.send(pb.SessionRequest(heartbeat=self._heartbeat(one)))
            case wants.SendStarted() | wants.SendProgress() | wants.SendDraining() | wants.SendProbed():
                self._session.send(wire.to_hub(one))
            case wants.SendResult(ref):
                self._session.send(pb.SessionRequest(result=self._outbox.result(ref)))
            case wants.StartWorker(slot, generation):
                self._start_worker(WorkerId(slot, generation))
            case wants.Probe(slot, generation, probe_id):
                name = probe_id or f"probe-{generation}"
                probe = worker_pb2.ProbeCommand(render_id=name, engine=self._config.engine)
                self._workers.send(WorkerId(slot, generation), worker_pb2.WorkerCommand(probe=probe))
            case wants.CancelProbe(slot, generation, probe_id):
                cancel = worker_pb2.CancelCommand(render_id=probe_id)
                self._workers.send(WorkerId(slot, generation), worker_pb2.WorkerCommand(cancel=cancel))
            case wants.Render(slot, generation, work):
                self._workers.send(WorkerId(slot, generation), self._render_command(work))
            case wants.CancelRender(slot, generation, ref):
                cancel = worker_pb2.CancelCommand(render_id=str(ref))
                self._workers.send(WorkerId(slot, generation), worker_pb2.WorkerCommand(cancel=cancel))
            case wants.KillWorker(slot, generation, why):
                self._workers.kill(WorkerId(slot, generation), why)
            case wants.FetchInputs(work):
                self._errands.begin("fetch", work.ref, self._fetch(work))
            case wants.StopFetching(ref):
                self._errands.cancel("fetch", ref)
            case wants.StoreResult(ref, _):
                self._store(one)
            case wants.UploadVideo(ref):
                self._errands.begin("upload", ref, self._upload(ref))
            case wants.SendCheckpoint(ref, done, total):
                self._errands.begin("checkpoint", ref, self._send_checkpoint(ref, done, total))
            case wants.ForgetResult(ref):
                self._errands.cancel("upload", ref)
                self._placed.discard(ref)
                self._outbox.forget(ref)
            case wants.BeginFault(fault, seconds):
                self._begin_fault(fault, seconds)
            case wants.EndFault(fault):
                _log.warning("fault ended", extra={"fault": fault.name.lower()})
                self._faults.end(fault)
                self._tell_health()
            case wants.Exit():
                pass

    def _connect(self, one: wants.Connect) -> None:
        if self._calls:
            self.metrics.reconnected()
        self._calls += 1
        hello = pb.Hello(
            node_id=self._config.node_id,
            region=self._config.region,
            agent_version=version("sonic-fleet"),
            gpus=self._gpus,
            slots=self._slot_messages(one.slots),
            running=[wire.ref_message(ref) for ref in one.running],
            finished=[wire.ref_message(ref) for ref in one.finished],
            draining=one.draining,
            plays_faults=self._config.plays_faults,
            cached_sha256=self._inputs.recent(MOST_CACHED_TOLD),
            forgets_inputs=not self._config.keep_inputs_s,
            takes_several=True,
        )
        self._errands.begin("session", "hub", self._session.hold(hello))

    def _heartbeat(self, one: wants.SendHeartbeat) -> pb.Heartbeat:
        sent_at = Timestamp()
        sent_at.FromNanoseconds(self._clock.now_ns())
        self._health.round_trip_seconds = self._session.round_trip_s
        return pb.Heartbeat(
            sent_at=sent_at,
            slots=self._slot_messages(one.slots),
            attempts=[wire.ref_message(ref) for ref in one.attempts],
            health=self._faults.over(self._health, self._gpus),
            echo=self._session.echo(),
            faults=[wire.fault_message(fault, seconds) for fault, seconds in one.faults],
        )

    def _slot_messages(self, views: tuple[wants.SlotView, ...]) -> list[nodes_pb2.Slot]:
        return [wire.slot_message(view, gpus.of_slot(view.index, self._gpus)) for view in views]

    def _begin_fault(self, fault: GameDayFault, seconds: float) -> None:
        _log.warning("fault begins", extra={"fault": fault.name.lower(), "seconds": seconds})
        if self._faults.begin(fault):
            self._errands.begin("slowing", "workers", self._faults.slow_down())
        self._tell_health()
        if fault is GameDayFault.CUT:
            self._errands.cancel("session", "hub")

    def _start_worker(self, worker: WorkerId) -> None:
        if worker.generation > 1:
            self.metrics.worker_restarted(self._ends.get(worker.slot, "unknown"))
        gpu = gpus.of_slot(worker.slot, self._gpus)
        settings = gpus.environment(gpu, self._gpus)
        self._errands.begin("live", str(worker), self._workers.live(worker, settings, gpu is not None))

    def _render_command(self, work: Work) -> worker_pb2.WorkerCommand:
        assignment = pb.Assignment.FromString(work.assignment)
        scratch = self._folders.scratch(work.ref)
        render = worker_pb2.RenderCommand(
            render_id=str(work.ref),
            engine=work.engine,
            portrait_path=str(scratch / "portrait"),
            voice_path=str(scratch / "voice"),
            output_path=str(self._folders.video(work.ref)),
            checkpoint_path=str(self._folders.checkpoint(work.ref)),
            parameters=assignment.spec.parameters,
        )
        return worker_pb2.WorkerCommand(render=render)

    # Errands: each ends in an event, whatever happens.

    async def _fetch(self, work: Work) -> None:
        assignment = pb.Assignment.FromString(work.assignment)
        self._tenants[work.ref] = assignment.tenant
        self.metrics.queued(assignment.queued_seconds, assignment.tenant)
        scratch = self._folders.scratch(work.ref)
        try:
            await asyncio.to_thread(scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
            for name, artifact, link in (
                ("portrait", assignment.portrait, assignment.portrait_url),
                ("voice", assignment.voice, assignment.voice_url),
            ):
                download = transfers.download(self._hub, self._config.node_id, work.ref, artifact, link)
                await self._bring(assignment.tenant, artifact, download, scratch / name)
            if assignment.HasField("checkpoint"):
                await self._bring_checkpoint(work.ref, assignment)
        except InputCorrupt as error:
            self._post(events.InputsFailed(work.ref, Failure(Fault.TRANSFER, "INPUT_CORRUPT", str(error))))
        except (HubError, OSError) as error:
            why = f"an input could not be fetched: {error}"
            self._post(events.InputsFailed(work.ref, Failure(Fault.TRANSFER, "INPUT_UNAVAILABLE", why)))
        else:
            self._post(events.InputsReady(work.ref))

    async def _bring_checkpoint(self, ref: Ref, assignment: pb.Assignment) -> None:
        """What an earlier attempt has left saves time, and is not needed."""
        download = transfers.download(self._hub, self._config.node_id, ref, assignment.checkpoint, "")
        try:
            await self._bring(assignment.tenant, assignment.checkpoint, download, self._folders.checkpoint(ref))
        except (InputCorrupt, HubError, OSError) as error:
            _log.warning("the state of an earlier attempt was not had", extra={"ref": str(ref), "why": str(error)})
        else:
            self._inputs.forget(assignment.checkpoint.sha256)

    async def _bring(self, tenant: str, artifact: artifacts_pb2.Artifact, download: Download, at: Path) -> None:
        async def counted(offset_bytes: int) -> AsyncIterator[bytes]:
            async for chunk in download(offset_bytes):
                self.metrics.fetched(len(chunk), tenant)
                yield chunk

        await self._inputs.place(artifact, counted, at)

    def _store(self, one: wants.StoreResult) -> None:
        failed = isinstance(one.outcome, Failure)
        detail = {"reason": one.outcome.reason, "why": one.outcome.message} if isinstance(one.outcome, Failure) else {}
        level = logging.WARNING if failed else logging.INFO
        _log.log(level, "attempt ended", extra={"ref": str(one.ref), "how": type(one.outcome).__name__, **detail})
        self.metrics.ended(one.outcome, self._tenants.pop(one.ref, NO_TENANT))
        if isinstance(one.outcome, Rendered):
            self._faults.rendered()
        self._errands.cancel("upload", one.ref)
        self._errands.cancel("checkpoint", one.ref)
        self._errands.begin("store", one.ref, self._keep(one))

    async def _keep(self, one: wants.StoreResult) -> None:
        await self._errands.over("fetch", one.ref)
        await self._errands.over("upload", one.ref)
        await self._errands.over("checkpoint", one.ref)
        try:
            await asyncio.to_thread(self._outbox.put, one.ref, one.outcome, self._folders.video(one.ref))
        except OSError as error:
            _log.error("result not stored", extra={"ref": str(one.ref), "why": str(error)})
            self._post(events.StoringFailed(one.ref, str(error)))
        else:
            self._post(events.ResultStored(one.ref))
        await self._remove(self._folders.scratch(one.ref))

    async def _remove(self, scratch: Path) -> None:
        """Nothing of a job stays, also where a worker that is being ended still writes into its folder."""
        for name in ("portrait", "voice"):
            with contextlib.suppress(OSError):
                os.utime(scratch / name)  # from now on nobody uses it here
        for _ in range(REMOVAL_TRIES):
            if await asyncio.to_thread(_removed, scratch):
                break
            await asyncio.sleep(TICK_S)
        else:
            _log.error("files of a job could not be removed", extra={"folder": str(scratch)})
        self._inputs.sweep()

    async def _send_checkpoint(self, ref: Ref, done: int, total: int) -> None:
        path = self._folders.checkpoint(ref)
        sending = path.with_name("state.sending")  # stays as it is when the worker replaces the file
        try:
            os.link(path, sending)
            state = await transfers.upload_checkpoint(
                self._hub, self._config.node_id, ref, sending, self._session.max_chunk_bytes
            )
            self._session.send(wire.checkpoint_message(ref, state, done, total))
        except grpc.aio.AioRpcError as error:
            _log.info("a state was not sent", extra={"ref": str(ref), "why": f"{error.code().name}: {error.details()}"})
        except OSError as error:
            _log.info("a state was not sent", extra={"ref": str(ref), "why": str(error)})
        finally:
            sending.unlink(missing_ok=True)
            self._post(events.CheckpointSent(ref))

    async def _upload(self, ref: Ref) -> None:
        video, path = self._outbox.result(ref).video.video, self._outbox.video(ref)
        chunk_bytes = self._session.max_chunk_bytes
        try:
            if ref not in self._placed and await transfers.put_directly(
                self._hub, self._config.node_id, ref, video, path
            ):
                self._placed.add(ref)
            else:
                await transfers.upload(self._hub, self._config.node_id, ref, video, path, chunk_bytes)
        except grpc.aio.AioRpcError as error:
            if transfers.is_over(error):
                _log.info("video not wanted", extra={"ref": str(ref), "why": error.details()})
                self._post(events.VideoUnwanted(ref))
                return
            refused = transfers.is_refusal(error)
            detail = f"{error.code().name}: {error.details()}"
            _log.warning("upload failed", extra={"ref": str(ref), "why": detail})
            self._post(events.UploadFailed(ref, refused, detail))
        except OSError as error:
            self._post(events.UploadFailed(ref, True, f"the video cannot be read: {error}"))
        else:
            self._post(events.VideoUploaded(ref))


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
