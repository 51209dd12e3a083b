"""One hub: opened, served and closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import grpc
import grpc.aio
import obstore.exceptions
import obstore.store
import sqlalchemy as sa
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hub.artifacts.depot import Depot
from hub.config import MIB, HubConfig, InvalidConfig
from hub.core.dispatch import Rules
from hub.core.tenants import Limits, TenantLimits
from hub.forward.config import ForwardConfig
from hub.forward.forwarder import Forwarder
from hub.forward.sink import open_sink
from hub.server import audit, http
from hub.server.access_service import AccessService, first_key
from hub.server.admin_service import AdminService
from hub.server.admittance import Admittance
from hub.server.checkpoints import Checkpoints
from hub.server.credentials import Credentials
from hub.server.dispatcher import Dispatcher
from hub.server.enrolment_service import EnrolmentService
from hub.server.fleet_service import FleetService
from hub.server.gate import Checking, Gate, Trusting
from hub.server.guard import Guard
from hub.server.job_service import JobService, reading
from hub.server.learned import Learned
from hub.server.neighbours import Neighbours, bearing_name
from hub.server.observer import Observer
from hub.server.sessions import Sessions
from hub.server.tenant_limits import Door, LimitsFile
from hub.server.transfers import Transfers
from hub.server.watchers import Watchers
from hub.store import records
from hub.store.artifacts import KnownArtifacts
from hub.store.bulletin import Bulletin
from hub.store.database import open_database, shared, sqlite_file
from hub.trust import ports
from hub.trust.authority import Authority, open_authority
from sonic import listener
from sonic.addresses import is_loopback
from sonic.listener import Bearer
from sonic.notify import Notifier
from sonic.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    admin_service_pb2,
    admin_service_pb2_grpc,
    enrolment_service_pb2,
    enrolment_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig  # the first and the last are there for types alone

STOP_GRACE_S = 5.0
SWEEP_INTERVAL_S = 3600.0
_NOTIFY_INTERVAL_S = 1.0
_log = logging.getLogger("hub")
_SERVICES = [
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (job_service_pb2, "JobService"),
        (fleet_service_pb2, "FleetService"),
        (admin_service_pb2, "AdminService"),
        (access_service_pb2, "AccessService"),
        (enrolment_service_pb2, "EnrolmentService"),
    )
]
_OPTIONS = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * MIB),  # a batch of 1000 jobs is a sixth of it
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 5000),  # of a connection; what is above waits at the other end
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),  # without a call
]
_COLLECT_AFTER = (10_000, 20, 50)  # objects, and collections of the younger generations
MOST_CALLS = 100_000  # that are open, of all callers together


@dataclass(frozen=True)
class Hub:
    """A hub that serves; the ports are those that it really has."""

    grpc_address: str
    agent_address: str  # the same for an insecure hub
    http_address: str
    dispatcher: Dispatcher
    sessions: Sessions
    limits: LimitsFile


async def run(config: HubConfig, forward: ForwardConfig | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the limits of tenants again.

    Raises InvalidConfig when an address or folder cannot be had.
    """
    os.umask(0o077)  # what is kept is nobody else's to read, also in a folder that is open
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    notifier = Notifier(os.environ)
    async with serving(config, forward) as hub:
        loop.add_signal_handler(signal.SIGHUP, hub.limits.reread)
        _collect_seldom()
        notifier.ready()
        while not stop.is_set():
            notifier.alive(time.monotonic())
            notifier.status(hub.dispatcher.stalled or "serving")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _NOTIFY_INTERVAL_S)
        notifier.stopping(2 * STOP_GRACE_S)
        _log.info("stopping")


def _collect_seldom() -> None:
    """Looking through all of a large fleet for garbage takes a sixth of a second, and there is hardly any."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


@asynccontextmanager
async def serving(config: HubConfig, forward: ForwardConfig | None = None) -> AsyncIterator[Hub]:
    """A running hub; leaving the context ends the sessions, commits what is decided, and closes everything."""
    with _claimed(config):
        database = open_database(config.resolved_database_url)
        try:
            async with (
                _audited(config, database),
                _named(config, database) as life,
                _forwarder(config, forward or ForwardConfig(), database) as forwarder,
                _serving(config, database, life, forwarder) as hub,
            ):
                yield hub
        finally:
            database.dispose()


@dataclass(frozen=True)
class _Parts:
    """What a hub consists of, before any of it is at work."""

    depot: Depot
    checkpoints: Checkpoints
    sessions: Sessions
    watchers: Watchers
    dispatcher: Dispatcher
    learned: Learned
    neighbours: Neighbours
    limits: LimitsFile
    credentials: Credentials
    gate: Gate
    fleet: FleetService
    healthy: health.aio.HealthServicer
    servers: list[grpc.aio.Server]
    grpc_address: str
    agent_address: str


@asynccontextmanager
async def _serving(
    config: HubConfig, database: sa.Engine, life: str, forwarder: Forwarder | None
) -> AsyncIterator[Hub]:
    parts = await _assemble(config, database, life, forwarder)
    observe = Observer(parts.dispatcher, parts.sessions, forwarder)
    async with _http(config, parts.dispatcher, observe) as http_address, parts.neighbours.at_work(_watch):
        work, background = _begin(parts, forwarder, observe)
        await asyncio.sleep(0)  # all of them have begun before the first call comes in
        for server in parts.servers:
            await server.start()
        for name in ("", *_SERVICES):
            await parts.healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        where = {"grpc": parts.grpc_address, "agents": parts.agent_address, "http": http_address}
        _log.info("serving", extra={**where, "data_dir": str(config.data_dir)})
        try:
            yield Hub(
                parts.grpc_address, parts.agent_address, http_address, parts.dispatcher, parts.sessions, parts.limits
            )
        finally:
            await _end(parts, work, background)


async def _assemble(config: HubConfig, database: sa.Engine, life: str, forwarder: Forwarder | None) -> _Parts:
    sessions, watchers = Sessions(await reading(database, records.nodes_that_left)), Watchers()
    known, bulletin, depot = KnownArtifacts(database), Bulletin(database, life), _depot(config)

    def link(tenant: str, sha256: str) -> str:
        return depot.link(tenant, sha256, config.link_valid_s)

    checkpoints = Checkpoints(database, depot)
    dispatcher = Dispatcher(
        database, known, _rules(config), sessions, watchers, bulletin, link, config.hub_id, checkpoints.job_ended
    )
    await dispatcher.load()
    beat_s = config.heartbeat_interval_s
    neighbours = Neighbours(config.hub_id, life, beat_s, database, bulletin, dispatcher, sessions)
    files = Transfers(database, known, depot)
    door, limits = _limits(config, dispatcher)
    authority = None if config.insecure else open_authority(config.resolved_authority_dir)
    enrolment = EnrolmentService(authority, config.certificate_valid_s, database, bulletin, sessions)
    jobs = JobService(database, dispatcher, files, watchers, door)
    fleet = FleetService(
        config, database, dispatcher, files, sessions, forwarder, neighbours, bulletin, checkpoints, enrolment
    )
    admin = AdminService(database, dispatcher, sessions, jobs, neighbours, bulletin, enrolment)
    credentials = Credentials(config, database)
    gate: Gate = Trusting() if config.insecure else Checking(credentials)
    healthy = health.aio.HealthServicer()
    guard = Guard(gate, Admittance(config.max_calls_per_s, config.max_open_calls))
    access = AccessService(database, gate)
    listening = _listening(config, authority, guard, jobs, fleet, admin, access, enrolment, healthy)
    learned = Learned(database, dispatcher.forecasts)
    return _Parts(
        depot,
        checkpoints,
        sessions,
        watchers,
        dispatcher,
        learned,
        neighbours,
        limits,
        credentials,
        gate,
        fleet,
        healthy,
        *listening,
    )


def _rules(config: HubConfig) -> Rules:
    beat_s = config.heartbeat_interval_s
    return Rules(config.lease_s, config.max_tries, settle_s=2 * beat_s, heartbeat_interval_s=beat_s)


def _limits(config: HubConfig, dispatcher: Dispatcher) -> tuple[Door, LimitsFile]:
    door = Door(dispatcher.queued, dispatcher.started)

    def apply(read: Limits) -> None:
        door.limits = read
        dispatcher.limit(read)

    return door, LimitsFile(config.tenants_file, TenantLimits(max_queued=config.max_queued_jobs), apply)


def _begin(
    parts: _Parts, forwarder: Forwarder | None, observe: Observer
) -> tuple[asyncio.Task[None], list[asyncio.Task[None]]]:
    """The dispatcher at work, and what goes on beside it."""
    work = asyncio.create_task(parts.dispatcher.run(), name="dispatcher")
    background = [
        asyncio.create_task(_sweep(parts.depot), name="sweep"),
        asyncio.create_task(parts.limits.watch(), name="tenant-limits"),
        asyncio.create_task(parts.checkpoints.run(), name="checkpoints"),
        asyncio.create_task(parts.gate.run(), name="gate"),
        asyncio.create_task(parts.learned.run(), name="learned"),
        asyncio.create_task(parts.credentials.run(), name="credentials"),
    ]
    if forwarder:
        background.append(asyncio.create_task(forwarder.run(observe), name="forwarder"))
    for task in (work, *background):
        task.add_done_callback(_watch)
    return work, background


async def _end(parts: _Parts, work: asyncio.Task[None], background: list[asyncio.Task[None]]) -> None:
    """Sessions end first, then calls, and what is decided by then is committed."""
    await parts.healthy.enter_graceful_shutdown()
    parts.sessions.end_all()
    parts.watchers.stop()
    await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in parts.servers))
    await parts.fleet.ended()
    parts.dispatcher.stop()
    await asyncio.wait([work], timeout=STOP_GRACE_S)
    for task in background:
        task.cancel()
    await asyncio.wait(background)
    await parts.credentials.note_use()
    await parts.learned.save()


def _listening(
    config: HubConfig,
    authority: Authority | None,
    guard: Guard,
    jobs: JobService,
    fleet: FleetService,
    admin: AdminService,
    access: AccessService,
    enrolment: EnrolmentService,
    healthy: health.aio.HealthServicer,
) -> tuple[list[grpc.aio.Server], str, str]:
    """The servers and their addresses, for callers and for agents: two ports, unless it is insecure.

    Whoever comes to the agents' port must have a certificate, and callers have none.
    """
    for_callers = _server(guard, healthy)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(jobs, for_callers)
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, for_callers)
    access_service_pb2_grpc.add_AccessServiceServicer_to_server(access, for_callers)
    enrolment_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(enrolment, for_callers)
    reflection.enable_server_reflection([*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], for_callers)
    if authority is None:
        _log.warning(
            "insecure: no TLS and no credentials; whoever can open a connection on this machine may do everything"
        )
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, for_callers)
        address = _bind(for_callers, "listen", config.listen, None)
        return [for_callers], address, address
    for_agents = _server(guard, healthy)
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, for_agents)
    return (
        [for_callers, for_agents],
        _bind(for_callers, "listen", config.listen, ports.callers(config, authority)),
        _bind(for_agents, "agent_listen", config.agent_listen, ports.agents(config, authority)),
    )


def _server(guard: Guard, healthy: health.aio.HealthServicer) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[guard], options=_OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    return server


def _bind(server: grpc.aio.Server, name: str, address: str, credentials: grpc.ServerCredentials | None) -> str:
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidConfig(f"{name} is {address!r}, which cannot be used; is another program there?") from error
    return f"{address.rpartition(':')[0]}:{port}"


@asynccontextmanager
async def _audited(config: HubConfig, database: sa.Engine) -> AsyncIterator[None]:
    """The audit log is open; and where nobody could call, a first operator has a key."""
    path = config.data_dir / "audit.log"
    with contextlib.ExitStack() as kept:
        try:
            kept.enter_context(audit.kept(path))
        except OSError as error:
            raise InvalidConfig(f"the audit log {path} cannot be written: {error.strerror}") from error
        if not config.insecure:
            await asyncio.to_thread(_let_operator_in, database, config.data_dir / "operator.key")
        yield


def _let_operator_in(database: sa.Engine, path: Path) -> None:
    """The key is in its file before it is in the store: a hub that is killed between the two begins again."""
    with database.begin() as connection:
        if not (key := first_key(connection)):
            return
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(fresh, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(f"{key}\n")
        fresh.replace(path)
    _log.warning("nobody could call: a first operator's key has been made", extra={"api_key_file": str(path)})


@asynccontextmanager
async def _forwarder(config: HubConfig, forward: ForwardConfig, database: sa.Engine) -> AsyncIterator[Forwarder | None]:
    """None when metrics go nowhere."""
    if not forward.url:
        yield None
        return
    known: set[str] = set()

    async def is_tenant(name: str) -> bool:
        if name not in known:
            try:
                has_jobs = await reading(database, lambda connection: records.has_jobs(connection, name))
            except sa.exc.SQLAlchemyError as error:  # the session is not to end for it, nor what the node renders
                _log.warning("whose samples these are cannot be asked; the operator's", extra={"error": str(error)})
                return False
            if has_jobs:
                known.add(name)
        return name in known

    async with open_sink(forward) as sink:
        forwarder = Forwarder(forward, config.data_dir / "forward", config.hub_id, sink, is_tenant)
        yield forwarder
        forwarder.close()


@asynccontextmanager
async def _http(config: HubConfig, dispatcher: Dispatcher, observe: Callable[[], None]) -> AsyncIterator[str]:
    app = http.application(lambda: dispatcher.stalled, observe, Bearer(config.http_access))
    try:
        async with listener.serving(config.http_listen, app, config.http_access) as address:
            yield address
    except listener.NoAddress as error:
        raise InvalidConfig(f"http_listen is {config.http_listen!r}, which cannot be used: {error}") from error


def _depot(config: HubConfig) -> Depot:
    objects: ObjectStore
    try:
        if not config.artifacts_url:
            objects = obstore.store.LocalStore(config.data_dir / "artifacts", mkdir=True)
        elif config.artifacts_url.startswith("s3://"):
            objects = _s3(config.artifacts_url)
        else:
            objects = obstore.store.from_url(config.artifacts_url)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise InvalidConfig(f"artifacts_url is {config.artifacts_url!r}, which cannot be used: {error}") from error
    return Depot(objects, config.data_dir / "incoming", config.max_artifact_bytes)


def _s3(url: str) -> ObjectStore:
    """Credentials, region and endpoint are those of the environment (AWS_*), or of the machine."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    plain = endpoint.scheme == "http" and is_loopback(endpoint.hostname or "")
    client: ClientConfig = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=5)}
    if plain:
        client["allow_http"] = True
    patience: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
    return obstore.store.from_url(url, client_options=client, retry_config=patience)


@contextlib.contextmanager
def _claimed(config: HubConfig) -> Iterator[None]:
    """Two hubs must not share a folder, nor a file of SQLite."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidConfig(f"data_dir is {str(config.data_dir)!r}, which cannot be used: {error.strerror}") from error
    with contextlib.ExitStack() as locks:
        locks.enter_context(_lock(config.data_dir / "hub.lock", f"data_dir is {str(config.data_dir)!r}"))
        if file := sqlite_file(config.resolved_database_url):
            locks.enter_context(_lock(file.with_name(f"{file.name}.lock"), f"database_url names {str(file)!r}"))
        yield


@contextlib.contextmanager
def _lock(path: Path, what: str) -> Iterator[None]:
    """Whoever has the lock has what it stands for; the system takes it back when the process ends."""
    try:
        file = path.open("w")
    except OSError as error:
        raise InvalidConfig(f"{what}, which cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidConfig(
                f"{what}, which another hub is using; for several, give each a folder and all one PostgreSQL"
            ) from None
        yield


@asynccontextmanager
async def _named(config: HubConfig, database: sa.Engine) -> AsyncIterator[str]:
    """Yields this life of the hub on a database that several can share, and nothing on any other."""
    if not shared(database):
        yield ""
        return
    if not config.artifacts_url:
        _log.warning(
            "artifacts_url is empty: portraits, voices and videos lie in data_dir, where no other hub can read them; "
            "for several hubs set it to a store that all of them reach"
        )
    async with bearing_name(database, config.hub_id, config.heartbeat_interval_s, config.data_dir) as life:
        yield life


async def _sweep(depot: Depot) -> None:
    while True:
        removed = await asyncio.to_thread(depot.sweep)
        if removed:
            _log.info("unfinished uploads removed", extra={"count": removed})
        await asyncio.sleep(SWEEP_INTERVAL_S)


def _watch(work: asyncio.Task[None]) -> None:
    """A hub that cannot decide any more must not look alive."""
    if not work.cancelled() and work.exception():
        _log.critical("the %s failed; stopping", work.get_name(), exc_info=work.exception())
        signal.raise_signal(signal.SIGTERM)
