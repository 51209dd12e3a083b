"""A fleet of real processes in a world of namespaces: hubs, their store, and agents that simulate nodes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent import identity
from hub.core.roles import Role
from hub.server.credentials import new_key
from hub.store import records, schema, tenants
from hub.store.database import open_database
from hub.trust.authority import NodeName, open_authority
from sonic.simulated_profile import unlike
from sonic.v1 import fleet_service_pb2, jobs_pb2
from tests import postgres
from tests.faults.history import Note, Stored, Try, notes
from tests.faults.world import Disk, Machine, World, end_with_parent

SONIC = [sys.executable, "-m", "sonic"]
GRPC_PORT, AGENTS_PORT, HTTP_PORT, POSTGRES_PORT = 50051, 50052, 8090, 5432
HEARTBEAT_S, LEASE_S, MAX_TRIES = 0.5, 2.0, 10
DISK_BYTES = 192 << 20
START_TIMEOUT_S = 60.0
REGIONS = ("eu", "us")
CRASH_CLOCK_S = 50_000  # how far the monotonic clock of a hub that starts again may be from what it was


@dataclass
class Part:
    """One process on its machine, which can be killed and started again; its log goes on in one file."""

    name: str
    machine: Machine
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self, *prefix: str) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [*self.machine.prefix, *prefix, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
                preexec_fn=end_with_parent,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.running
        self.running.send_signal(number)

    def kill(self) -> None:
        assert self.running
        self.running.kill()
        self.running.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.running
        self.running.terminate()
        return self.running.wait(60)

    def alive(self) -> bool:
        return self.running is not None and self.running.poll() is None

    def said(self) -> Iterator[tuple[float, str, dict[str, str]]]:
        """The lines of its log: when by the wall clock, what, and all about it."""
        for line in self.log.read_text(errors="replace").splitlines() if self.log.exists() else ():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                yield datetime.fromisoformat(entry["ts"]).timestamp(), entry["message"], entry


@dataclass
class Fleet:
    """Every part by name, on machines of a world; everything is made from `seed`."""

    folder: Path
    seed: int
    world: World
    machines: dict[str, Machine]
    hubs: list[Part] = field(default_factory=list)
    agents: list[Part] = field(default_factory=list)
    disks: dict[str, Disk] = field(default_factory=dict)
    cluster: postgres.Cluster | None = None
    database_url: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # of each tenant, and of the operator under ""

    @property
    def authority_dir(self) -> Path:
        """All hubs have it."""
        return self.folder / "authority"

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """A caller's."""
        return grpc.ssl_channel_credentials((self.authority_dir / "authority.pem").read_bytes())

    def let_in(self, names: Iterable[str]) -> None:
        """Give tenants and an operator a key, by the store that all hubs look into."""
        engine = open_database(self.database_url)
        with engine.begin() as connection:
            for name in ("", *names):
                key, role = new_key(), Role.TENANT if name else Role.OPERATOR
                if name:
                    tenants.create(connection, name, time.time())
                new = tenants.NewKey(key.key_id, key.digest, role, name or None, "storm", None)
                tenants.add_key(connection, new, time.time())
                self.keys[name] = key.text
        engine.dispose()

    @property
    def targets(self) -> list[str]:
        return [f"{hub.machine.address}:{GRPC_PORT}" for hub in self.hubs]

    def start_hub(self, hub: Part) -> None:
        """Its monotonic clock is another one than before, as after a loss of power."""
        offset_s = random.Random(self.seed + hub.starts).randint(0, CRASH_CLOCK_S)
        hub.start("unshare", "--time", "--monotonic", str(offset_s), "--boottime", str(offset_s))

    def until_ready(self, hub: Part, timeout_s: float = START_TIMEOUT_S) -> None:
        until_s = time.monotonic() + timeout_s
        while not self.ready(hub):
            assert hub.alive(), f"{hub.name} ended:\n{hub.log.read_text()[-3000:]}"
            assert time.monotonic() < until_s, f"{hub.name} is not ready:\n{hub.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def ready(self, hub: Part) -> bool:
        url = f"https://{hub.machine.address}:{HTTP_PORT}/readyz"
        with contextlib.suppress(OSError):
            trusted = ssl.create_default_context(cafile=self.authority_dir / "authority.pem")
            urllib.request.urlopen(url, timeout=2, context=trusted).close()
            return True
        return False

    def notes(self) -> list[Note]:
        """What all nodes have written down, in order."""
        found = [note for path in sorted(self.folder.glob("*.journal")) for note in notes(path)]
        return sorted(found, key=lambda note: note.at_s)

    def stored(self) -> list[Stored]:
        """What the store holds of every job."""
        engine = sa.create_engine(self.database_url)
        with engine.connect() as connection:
            rows = connection.execute(sa.select(schema.jobs)).all()
            found = [
                _stored(record)
                for at in range(0, len(rows), 500)
                for record in records.with_attempts(connection, rows[at : at + 500])
            ]
        engine.dispose()
        return found


def _stored(record: records.JobRecord) -> Stored:
    row = record.row
    video = fleet_service_pb2.RenderedVideo.FromString(row.result or b"").video
    return Stored(
        job_id=row.job_id,
        tenant=row.tenant,
        key=row.idempotency_key,
        state=row.state,
        revision=row.revision,
        won_by=row.won_by,
        digest=video.sha256,
        reason=jobs_pb2.JobFailure.FromString(row.failure or b"").reason,
        has_deadline=jobs_pb2.JobSpec.FromString(row.spec).HasField("deadline"),
        tries=tuple(
            Try(
                one.attempt,
                one.node_id,
                one.assigned_at_s,
                one.ended_at_s,
                jobs_pb2.JobFailure.FromString(one.failure or b"").reason,
            )
            for one in record.attempts
        ),
    )


@contextlib.contextmanager
def running(folder: Path, seed: int, hubs: int, store: str, agents: int, nodes: int) -> Iterator[Fleet]:
    """`hubs` hubs on one store (sqlite or postgresql), and `agents` processes of `nodes` nodes each."""
    names = [f"hub-{number}" for number in range(1, hubs + 1)] + [f"box-{n}" for n in range(1, agents + 1)]
    names += ["store"] if store == "postgresql" else []
    world = World()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(world.close)
        made = Fleet(folder, seed, world, world.build(["callers", *names], seed))
        cleanup.callback(_end, made)
        if store == "postgresql":
            made.cluster = _cluster(made)
            cleanup.callback(made.cluster.stop, signal.SIGINT)
            made.database_url = made.cluster.database()
        for number in range(1, hubs + 1):
            _add_hub(made, f"hub-{number}", store)
        for hub in made.hubs:
            made.start_hub(hub)
            made.until_ready(hub)
        for number in range(1, agents + 1):
            _add_agents(made, f"box-{number}", nodes).start()
        for agent in made.agents:
            _until_joined(agent)
        yield made


def _until_joined(agents: Part) -> None:
    until_s = time.monotonic() + START_TIMEOUT_S
    while not any(message == "all nodes have joined" for _, message, _ in agents.said()):
        assert agents.alive(), f"{agents.name} ended:\n{agents.log.read_text()[-3000:]}"
        assert time.monotonic() < until_s, f"{agents.name} has not joined:\n{agents.log.read_text()[-3000:]}"
        time.sleep(0.1)


def _end(fleet: Fleet) -> None:
    for part in (*fleet.agents, *fleet.hubs):
        if part.alive():
            part.kill()


def _cluster(fleet: Fleet) -> postgres.Cluster:
    """One that every machine reaches. PostgreSQL does not run as root, not even as that of a user namespace."""
    machine, folder = fleet.machines["store"], fleet.folder / "postgres"
    folder.mkdir()
    wrapper = (*machine.prefix, "unshare", "--user", "--map-user=1000", "--map-group=1000")
    settings = {"max_connections": "200", "listen_addresses": "*"}
    made = postgres.Cluster(
        folder, postgres.installed(), settings, POSTGRES_PORT, host=machine.address, wrapper=wrapper
    )
    made.create()
    with (folder / "data/pg_hba.conf").open("a") as file:
        file.write("host all all 10.77.0.0/24 trust\n")
    made.start()
    return made


def _add_hub(fleet: Fleet, name: str, store: str) -> None:
    machine = fleet.machines[name]
    fleet.disks[name] = Disk.mounted(fleet.folder / name, DISK_BYTES)
    command = [*SONIC, "hub", "--hub-id", name, "--data-dir", str(fleet.folder / name)]
    command += ["--agent-listen", f"{machine.address}:{AGENTS_PORT}", "--authority-dir", str(fleet.authority_dir)]
    command += ["--listen", f"{machine.address}:{GRPC_PORT}", "--http-listen", f"{machine.address}:{HTTP_PORT}"]
    for option, file in _http_files(fleet, machine).items():
        command += [option, str(file)]
    command += ["--heartbeat-interval-s", str(HEARTBEAT_S), "--lease-s", str(LEASE_S), "--max-tries", str(MAX_TRIES)]
    if store == "postgresql":
        files = fleet.folder / "files"
        files.mkdir(exist_ok=True)
        command += ["--database-url", fleet.database_url, "--artifacts-url", files.as_uri()]
    else:
        fleet.database_url = f"sqlite:///{fleet.folder / name / 'hub.db'}"
    fleet.hubs.append(Part(name, machine, command, fleet.folder / f"{name}.log"))


def _http_files(fleet: Fleet, machine: Machine) -> dict[str, Path]:
    """What other machines may only be served with."""
    key, chain = open_authority(fleet.authority_dir).server_certificate([machine.address], timedelta(days=1))
    contents = {"tls-certificate": chain, "tls-key": key, "token": secrets.token_hex(16).encode()}
    files = {name: fleet.folder / f"{machine.address}.{name}" for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(content)
    return {
        "--http-tls-certificate-file": files["tls-certificate"],
        "--http-tls-key-file": files["tls-key"],
        "--metrics-token-file": files["token"],
    }


def _enrolled(fleet: Fleet, name: str, nodes: int) -> Path:
    """A folder with an identity that names all of the nodes; who makes one has to hold the authority's key."""
    data_dir, key_pem = fleet.folder / name, identity.new_key()
    data_dir.mkdir()
    seed = zlib.crc32(name.encode())
    names = [NodeName(profile.region, profile.node_id) for profile in unlike(nodes, name, REGIONS, seed)]
    authority = open_authority(fleet.authority_dir)
    key = load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issued = authority.node_certificate(key.public_key(), names, timedelta(days=1))
    made = identity.Identity.of(key_pem, issued.pem, authority.pem)
    identity.IdentityFolder(data_dir).save(made)
    return data_dir


def _add_agents(fleet: Fleet, name: str, nodes: int) -> Part:
    command = [sys.executable, "-m", "tests.faults.journaled_agents", "agent", "--simulate", str(nodes)]
    command += ["--node-id", name, "--region", ",".join(REGIONS), "--plays-faults"]
    command += ["--hub", ",".join(f"{hub.machine.address}:{AGENTS_PORT}" for hub in fleet.hubs)]
    command += ["--data-dir", str(_enrolled(fleet, name, nodes))]
    journal = {"JOURNAL": str(fleet.folder / f"{name}.journal")}
    fleet.agents.append(Part(name, fleet.machines[name], command, fleet.folder / f"{name}.log", journal))
    return fleet.agents[-1]
