"""FleetService: the hub as agents see it. The contract is in proto/sonic/v1/fleet_service.proto."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from hub import exceptions, wire
from hub.artifacts.depot import MAX_CHUNK_BYTES
from hub.config import HubConfig
from hub.core import events
from hub.core.instructions import Verdict
from hub.core.jobs import Ref, State
from hub.core.names import is_job_id, name_problem
from hub.forward.forwarder import Forwarder
from hub.server import transfers, views
from hub.server.callers import Context
from hub.server.checkpoints import Checkpoints
from hub.server.dispatcher import Dispatcher
from hub.server.enrolment_service import EnrolmentService
from hub.server.job_service import reading
from hub.server.neighbours import Neighbours
from hub.server.peers import check_node, joined_of, names_of
from hub.server.presence import Presence
from hub.server.sessions import MOST_UNTAKEN, AgentSession, Outgoing, Sessions
from hub.store import records
from hub.store.bulletin import Bulletin
from hub.store.hubs import Farewell, Greeting
from sonic.bundles import bundle, unbundled
from sonic.parameters import Problem
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc, jobs_pb2
from sonic.v1 import fleet_service_pb2 as pb

HELLO_TIMEOUT_S = 10.0
RIGHT_LOOKED_AT_S = 2.0  # how often, in a transfer that goes on
LATE_S = 1.0  # a timer that is later than this tells that the hub itself stood still
MAX_VERSION_CHARACTERS = 64  # of an agent, as stored
SILENT_INTERVALS = 4  # a session that has said nothing for so many heartbeat intervals is ended
_log = logging.getLogger("hub.fleet")


class FleetService(fleet_service_pb2_grpc.FleetServiceServicer):
    """Turns what agents say into events, and passes on what the dispatcher sends them."""

    def __init__(
        self,
        config: HubConfig,
        database: sa.Engine,
        dispatcher: Dispatcher,
        files: transfers.Transfers,
        sessions: Sessions,
        forwarder: Forwarder | None,
        neighbours: Neighbours,
        bulletin: Bulletin,
        checkpoints: Checkpoints,
        enrolment: EnrolmentService,
    ) -> None:
        self._config = config
        self._enrolment = enrolment
        self._checking: dict[tuple[str, Ref], asyncio.Task[None]] = {}  # videos that were reported
        self._noting: dict[tuple[str, Ref], asyncio.Task[None]] = {}
        self._told: dict[tuple[str, Ref], pb.AttemptCheckpoint] = {}  # states that are still to be noted
        self._neighbours = neighbours
        self._bulletin = bulletin
        self._checkpoints = checkpoints
        self._database = database
        self._dispatcher = dispatcher
        self._files = files
        self._sessions = sessions
        self._forwarder = forwarder
        self._presence = Presence(database, bulletin, config.hub_id)

    async def ended(self) -> None:
        """Wait until it is stored which sessions have ended."""
        await self._presence.noted()

    async def Session(self, request: AsyncIterator[pb.SessionRequest], context: Context) -> AsyncIterator[Outgoing]:
        hello = await _first(aiter(request))
        check_node(context, hello.node_id, hello.region)
        await self._enrolment.check_right(hello.node_id, context)
        session = AgentSession(uuid.uuid4().hex, hello, joined_of(context), slots=list(hello.slots))
        session.handler = asyncio.current_task()
        await self._note(session)
        self._sessions.open(session)
        self._neighbours.joined(session)
        _log.info("session opened", extra={"node_id": hello.node_id, "region": hello.region})
        session.outgoing.put_nowait(Outgoing(welcome=self._welcome(session)))
        self._dispatcher.post(_joined(session))
        listener = asyncio.create_task(self._listen(request, session), name=f"listen-{hello.node_id}")
        try:
            await self._enrolment.check_right(hello.node_id, context)  # it may have been revoked meanwhile
            while (message := await session.outgoing.get()) is not None:
                alone = message.HasField("welcome") or not hello.takes_several
                yield message if alone else bundle(message, session.outgoing)
        finally:
            listener.cancel()
            await asyncio.wait([listener])
            if not listener.cancelled() and (broken := listener.exception()):
                _log.error("a session broke", extra={"node_id": hello.node_id}, exc_info=broken)
            self._sessions.close(session)
            self._end_metrics(session)
            self._dispatcher.post(events.NodeCut(hello.node_id, session.session_id))
            _log.info("session ended", extra={"node_id": hello.node_id})
            farewell = Farewell(hello.node_id, session.session_id, session.heard_at_s, session.metrics.leaving)
            self._presence.end(farewell)

    async def FetchInput(self, request: pb.FetchInputRequest, context: Context) -> AsyncIterator[pb.FetchInputResponse]:
        right = partial(self._held, context, request.node_id, request.ref)
        attempt = await right()
        spec = jobs_pb2.JobSpec.FromString(attempt.spec)
        chunks: AsyncIterator[bytes] | None
        if request.sha256 in (spec.portrait_sha256, spec.voice_sha256):
            _, chunks = await self._files.download(attempt.tenant, request.sha256, request.range)
        else:
            chunks = await self._checkpoints.read(attempt.tenant, attempt.job_id, request.sha256, request.range)
        if chunks is None:
            raise exceptions.NotFound(f"artifact {request.sha256[:64]!r} is no input of this attempt")
        async for chunk in self._while_allowed(chunks, right):
            yield pb.FetchInputResponse(chunk=chunk)

    async def GetVideo(self, request: pb.GetVideoRequest, context: Context) -> pb.GetVideoResponse:
        attempt = await self._wanted(context, request.node_id, request.ref)
        return pb.GetVideoResponse(status=await self._files.status(attempt.tenant, request.sha256))

    async def PlaceVideo(self, request: pb.PlaceVideoRequest, context: Context) -> pb.PlaceVideoResponse:
        attempt = await self._wanted(context, request.node_id, request.ref)
        valid_s = self._config.link_valid_s
        url = await self._files.place(
            attempt.tenant, wire.ref(request.ref), request.sha256, request.size_bytes, valid_s
        )
        return pb.PlaceVideoResponse(url=url, expires_seconds=valid_s if url else 0)

    async def UploadVideo(
        self, request: AsyncIterator[pb.UploadVideoRequest], context: Context
    ) -> pb.UploadVideoResponse:
        header, chunks = await transfers.unpack(request)
        right = partial(self._held if header.checkpoint else self._wanted, context, header.node_id, header.ref)
        attempt = await right()
        chunks = self._while_allowed(chunks, right)
        if header.checkpoint:
            state = await self._checkpoints.receive(header.node_id, wire.ref(header.ref), header.upload, chunks)
            return pb.UploadVideoResponse(video=state)
        return pb.UploadVideoResponse(video=await self._files.upload(attempt.tenant, header.upload, chunks))

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        check_node(context, request.node_id)
        names = names_of(context) or frozenset()
        issued = await self._enrolment.renewed(request.signing_request, names, context)
        return pb.RenewCertificateResponse(
            certificate=issued.pem.decode(), authority=self._enrolment.authority.pem.decode()
        )

    @staticmethod
    async def _while_allowed(
        chunks: AsyncIterator[bytes], right: Callable[[], Awaitable[object]]
    ) -> AsyncIterator[bytes]:
        """The chunks, as long as `right` holds. Raises Refusal."""
        looked_at_s = time.monotonic()
        async for chunk in chunks:
            if time.monotonic() - looked_at_s > RIGHT_LOOKED_AT_S:
                await right()
                looked_at_s = time.monotonic()
            yield chunk

    async def _held(self, context: Context, node_id: str, ref: jobs_pb2.AttemptRef) -> sa.Row[Any]:
        """The attempt, while its job has not ended and no other one was given out. Raises Refusal."""
        attempt = await self._wanted(context, node_id, ref)
        if attempt.attempt != attempt.newest:
            raise exceptions.AttemptOver(f"job {ref.job_id!r} is at attempt {attempt.newest}, this is {ref.attempt}")
        return attempt

    async def _wanted(self, context: Context, node_id: str, ref: jobs_pb2.AttemptRef) -> sa.Row[Any]:
        """The attempt, while its job has not ended: any that was given out may still be the first to finish it.

        Raises Refusal.
        """
        check_node(context, node_id)
        await self._enrolment.check_right(node_id, context)
        attempt = await self._attempt(node_id, ref)
        if State(attempt.state).ended:
            raise exceptions.AttemptOver(f"job {ref.job_id!r} has ended")
        return attempt

    async def _attempt(self, node_id: str, ref: jobs_pb2.AttemptRef) -> sa.Row[Any]:
        row = None
        if is_job_id(ref.job_id):
            row = await reading(
                self._database, lambda connection: records.attempt(connection, ref.job_id, ref.attempt, node_id)
            )
        if row is None:
            said = ref.job_id[:80]
            raise exceptions.NotFound(f"node {node_id!r} was never given attempt {ref.attempt} of job {said!r}")
        return row

    def _welcome(self, session: AgentSession) -> pb.Welcome:
        return pb.Welcome(
            session_id=session.session_id,
            heartbeat_interval_seconds=self._config.heartbeat_interval_s,
            lease_seconds=self._config.lease_s,
            server_time=views.now_message(),
            max_upload_chunk_bytes=MAX_CHUNK_BYTES,
            sampling_interval_seconds=self._forwarder.config.interval_s if self._forwarder else 0,
            takes_checkpoints=True,
            takes_several=True,
            late_samples=bool(self._forwarder and self._forwarder.config.out_of_order_window_s),
        )

    def _end_metrics(self, session: AgentSession) -> None:
        """The graphs of a node that has left end at once, those of one that is cut off when its leases would."""
        forwarder, node_id = self._forwarder, session.hello.node_id

        def end() -> None:
            if forwarder and self._sessions.get(node_id) is None:
                forwarder.gone(node_id)

        if session.metrics.leaving:
            end()
        else:
            asyncio.get_running_loop().call_later(self._config.lease_s, end)

    async def _note(self, session: AgentSession) -> None:
        """Store that the node's session is here, and look at what other hubs have done with it."""
        hello = session.hello
        version = wire.text(hello.agent_version, MAX_VERSION_CHARACTERS)
        greeting = Greeting(hello.node_id, session.session_id, hello.region, version)
        held = await self._presence.begin(greeting)
        if self._bulletin.shared:
            named = {ref.job_id for ref in (*hello.running, *hello.finished)}
            self._dispatcher.look_again([*held, *filter(is_job_id, named)])
            self._neighbours.look_at([hello.node_id])

    async def _listen(self, requests: AsyncIterator[pb.SessionRequest], session: AgentSession) -> None:
        """Until the agent ends the stream or falls silent; either ends the session."""
        silence_s = SILENT_INTERVALS * self._config.heartbeat_interval_s
        loop = asyncio.get_running_loop()
        waiting_since_s: float | None = loop.time()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            left_s = silence_s if waiting_since_s is None else waiting_since_s + silence_s - loop.time()
            if loop.time() - timer.when() > LATE_S:  # the hub stood still: what was said meanwhile is yet to come
                left_s = silence_s
            if left_s > 0:
                timer = loop.call_later(left_s, look)
                return
            _log.warning("session silent", extra={"node_id": session.hello.node_id, "silence_s": silence_s})
            session.end()

        timer = loop.call_later(silence_s, look)  # one for all messages: a timeout for each costs a tenth of the hub
        try:
            async for message in requests:
                waiting_since_s = None
                messages = unbundled(message)
                for each in messages:
                    await self._take(each, session)
                while wait_s := session.pace.take(len(messages), loop.time()):  # noqa: ASYNC110 - it is known how long
                    await asyncio.sleep(wait_s)
                if session.outgoing.qsize() > MOST_UNTAKEN:
                    _log.warning("session takes nothing", extra={"node_id": session.hello.node_id})
                    return
                waiting_since_s = loop.time()
        finally:
            timer.cancel()
            session.end()

    async def _take(self, message: pb.SessionRequest, session: AgentSession) -> None:
        node_id = session.hello.node_id
        match message.WhichOneof("message"):
            case "heartbeat":
                if not session.hear(message.heartbeat) or not session.offered:
                    session.offered = wire.slots(session.slots)
                self._dispatcher.post(_heard(session, message.heartbeat))
                if message.heartbeat.echo:
                    session.outgoing.put_nowait(Outgoing(echo=pb.Echo(echo=message.heartbeat.echo)))
            case "probed":
                self._dispatcher.post(wire.probed(node_id, message.probed))
            case "started":
                self._dispatcher.post(events.AttemptStarted(node_id, wire.ref(message.started.ref)))
            case "progress":
                progress = wire.progress(message.progress.progress)
                progressed = events.AttemptProgressed(node_id, wire.ref(message.progress.ref), progress)
                self._dispatcher.post(progressed)
                self._neighbours.progressed(progressed)
            case "checkpoint":
                self._take_checkpoint(message.checkpoint, node_id)
            case "result" if message.result.HasField("video"):
                self._take_video(message.result, session)
            case "result":
                self._take_result(message.result, session)
            case "series_table" if self._forwarder:
                await self._forwarder.declare(session.metrics, message.series_table)
            case "samples" if self._forwarder:
                self._forwarder.take(session.metrics, message.samples)
            case "draining":
                session.metrics.leaving = True
                self._dispatcher.post(events.NodeLeaving(node_id, session.session_id))

    def _take_checkpoint(self, said: pb.AttemptCheckpoint, node_id: str) -> None:
        """Looking it up takes its time, in which the node goes on talking; the newest waits for the one before."""
        key = (node_id, wire.ref(said.ref))
        self._told[key] = said

        def end(task: asyncio.Task[None]) -> None:
            if self._noting[key] is task:
                del self._noting[key]
            if not task.cancelled() and task.exception():
                _log.error("a state was not dealt with", exc_info=task.exception())

        if key not in self._noting or self._noting[key].done():
            self._noting[key] = asyncio.create_task(self._note_checkpoints(key), name=f"state {key}")
            self._noting[key].add_done_callback(end)

    async def _note_checkpoints(self, key: tuple[str, Ref]) -> None:
        """Whatever speaks against one: a state only saves time."""
        node_id, ref = key
        while said := self._told.pop(key, None):
            try:
                attempt = await self._attempt(node_id, said.ref)
                await self._checkpoints.note(node_id, attempt.tenant, ref, said)
            except (exceptions.Refusal, sa.exc.SQLAlchemyError) as error:
                _log.info("a state was not kept", extra={"job_id": ref.job_id[:32], "error": str(error)})

    def _take_result(self, result: pb.AttemptResult, session: AgentSession) -> None:
        node_id, ref = session.hello.node_id, wire.ref(result.ref)
        match result.WhichOneof("outcome"):
            case "failure":
                self._dispatcher.post(events.AttemptFailed(node_id, ref, wire.failure(result.failure)))
            case "stopped":
                self._dispatcher.post(events.AttemptStopped(node_id, ref))

    def _take_video(self, result: pb.AttemptResult, session: AgentSession) -> None:
        """Checking a video takes its time, in which the node goes on talking; a repeat does not check it twice."""
        key = node_id, ref = (session.hello.node_id, wire.ref(result.ref))
        tenant = self._dispatcher.tenant_of(ref, node_id)
        if tenant and (video := self._files.remembered(tenant, result.video.video.sha256)):
            self._rendered(node_id, ref, video, result)
            return

        def end(task: asyncio.Task[None]) -> None:
            del self._checking[key]
            if not task.cancelled() and task.exception():
                _log.error("a reported video was not dealt with", exc_info=task.exception())

        if key not in self._checking:
            self._checking[key] = asyncio.create_task(self._check_video(result, session), name=f"video {key}")
            self._checking[key].add_done_callback(end)

    async def _check_video(self, result: pb.AttemptResult, session: AgentSession) -> None:
        node_id, ref = session.hello.node_id, wire.ref(result.ref)
        try:
            video = await self._video(node_id, result)
        except (exceptions.NotNow, sa.exc.SQLAlchemyError) as error:  # unanswered, the agent reports it again
            _log.warning("a video could not be checked", extra={"job_id": ref.job_id, "error": str(error)})
        else:
            if isinstance(video, Verdict):
                value = pb.ResultVerdict.ValueType(video)
                session.outgoing.put_nowait(Outgoing(result_ack=pb.ResultAck(ref=result.ref, verdict=value)))
            else:
                self._rendered(node_id, ref, video, result)

    def _rendered(self, node_id: str, ref: Ref, video: artifacts_pb2.Artifact, result: pb.AttemptResult) -> None:
        stored = pb.RenderedVideo(video=video, report=result.video.report).SerializeToString()
        rendered = wire.rendered(result.video.report)
        self._dispatcher.post(events.AttemptSucceeded(node_id, ref, stored, rendered))

    async def _video(self, node_id: str, result: pb.AttemptResult) -> artifacts_pb2.Artifact | Verdict:
        """The reported video as the hub holds it, or what speaks against taking the result. Raises NotNow."""
        said = result.video.video
        try:
            tenant = self._dispatcher.tenant_of(wire.ref(result.ref), node_id)
            if tenant is None:
                attempt = await self._attempt(node_id, result.ref)
                if State(attempt.state).ended:
                    return Verdict.COMMITTED if attempt.won_by == attempt.attempt else Verdict.SUPERSEDED
                tenant = attempt.tenant
            held = await self._files.seen(tenant, said.sha256)
            if held is None:
                held = await self._files.adopt(tenant, wire.ref(result.ref), said.sha256, said.size_bytes)
        except exceptions.NotFound:
            return Verdict.UNKNOWN
        except exceptions.InvalidRequest:
            return Verdict.VIDEO_MISSING
        return held or Verdict.VIDEO_MISSING


async def _first(messages: AsyncIterator[pb.SessionRequest]) -> pb.Hello:
    """The agent's Hello. Raises InvalidRequest, OutOfSequence."""
    try:
        message = await asyncio.wait_for(anext(messages, None), HELLO_TIMEOUT_S)
    except TimeoutError:
        message = None
    if message is None or message.WhichOneof("message") != "hello":
        raise exceptions.OutOfSequence("the first message of a session is Hello")
    problems = [
        Problem(f"hello.{name}", problem)
        for name, value in (("node_id", message.hello.node_id), ("region", message.hello.region))
        if (problem := name_problem(value))
    ]
    if problems:
        raise exceptions.InvalidRequest(problems)
    return message.hello


def _joined(session: AgentSession) -> events.NodeJoined:
    hello = session.hello
    return events.NodeJoined(
        node_id=hello.node_id,
        region=hello.region,
        session_id=session.session_id,
        slots=wire.slots(hello.slots),
        running=tuple(wire.ref(ref) for ref in hello.running),
        finished=tuple(wire.ref(ref) for ref in hello.finished),
        leaving=hello.draining,
        gpus=tuple(wire.gpu(gpu) for gpu in hello.gpus[: wire.MAX_PARTS]),
        inputs=tuple(hello.cached_sha256[: wire.MAX_PARTS]),
        forgets_inputs=hello.forgets_inputs,
    )


def _heard(session: AgentSession, heartbeat: pb.Heartbeat) -> events.NodeHeard:
    return events.NodeHeard(
        node_id=session.hello.node_id,
        session_id=session.session_id,
        slots=session.offered,
        attempts=tuple(wire.ref(ref) for ref in heartbeat.attempts),
        readings=wire.readings(session.hello.gpus, heartbeat.health),
        round_trip_s=wire.sane(heartbeat.health.round_trip_seconds),
    )
