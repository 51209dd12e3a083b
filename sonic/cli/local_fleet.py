"""A real hub and real agents on this machine, on free ports, that leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sonic import config, exceptions
from sonic.cli.local_prometheus import Prometheus
from sonic.client import AsyncSonicClient
from sonic.v1 import nodes_pb2

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
_LOOK_AGAIN_S = 0.1
# A program that ends when the process that started it does, however that came (PR_SET_PDEATHSIG), and if that has come
# already.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit()
"""
_SONIC = f"{_TIED}\nfrom sonic.cli import main\nmain()"
_OTHER = f"{_TIED}\nos.execv(sys.argv[1], sys.argv[1:])"
_FORWARD_INTERVAL_S = 1.0


@dataclass
class Program:
    """One process of the fleet, in a session of its own, with its log."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def check(self) -> None:
        """Raises SonicError with the end of the log when it has ended."""
        if self.process.returncode is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise exceptions.SonicError(f"{self.name} ended with {self.process.returncode}:\n{tail}")

    def said(self, message: str) -> dict[str, str] | None:
        """The first line of the log with this message."""
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("message") == message:
                    return entry
        return None

    def kill(self) -> None:
        """At once, with its workers, which have sessions of their own."""
        workers = []
        with contextlib.suppress(OSError):
            workers = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for group in (self.process.pid, *map(int, workers)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and whatever is left after a while is killed."""
        if self.process.returncode is None:
            self.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
        self.kill()
        await self.process.wait()


class Fleet:
    """One hub and its agents, with their data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.stopping = False
        self._folder = folder
        self._hub: Program | None = None
        self._agents: list[Program] = []
        self._prometheus: Program | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping = True
        await asyncio.gather(*(agent.stop() for agent in self._agents))
        for program in (self._hub, self._prometheus):
            if program:
                await program.stop()

    def kill(self) -> None:
        """End everything at once; whoever waits for its end need not wait any more."""
        for program in (*self._agents, self._hub, self._prometheus):
            if program:
                program.kill()

    async def start_prometheus(self) -> Prometheus | None:
        """One that takes remote writes, when it is installed. Raises SonicError."""
        if not (binary := shutil.which("prometheus")):
            return None
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        settings = self._folder / "prometheus.yml"
        settings.write_text("global: {}\n")
        arguments = ["--web.enable-remote-write-receiver", f"--web.listen-address={address}"]
        arguments += [f"--config.file={settings}", f"--storage.tsdb.path={self._folder / 'prometheus'}"]
        self._prometheus = await self._spawn("prometheus", _OTHER, binary, *arguments)
        found = Prometheus(f"http://{address}")
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await found.ready():
                self._prometheus.check()
                await asyncio.sleep(_LOOK_AGAIN_S)
        return found

    async def start_hub(self, metrics: Prometheus | None) -> str:
        """The answer is its gRPC address. Raises SonicError."""
        forward = ["--forward-url", f"{metrics.url}/api/v1/write"] if metrics else []
        forward += ["--forward-interval-s", str(_FORWARD_INTERVAL_S)]
        self._hub = await self._start("hub", "hub", "--insecure", "--listen", "127.0.0.1:0", *forward)
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (serving := self._hub.said("serving")):
                self._hub.check()
                await asyncio.sleep(_LOOK_AGAIN_S)
        return serving["grpc"]

    async def start_agents(self, address: str, names: list[str]) -> None:
        """Agents of the hub at `address`."""
        for name in names:
            arguments = ["--insecure", "--hub", address, "--node-id", name, "--region", "demo"]
            self._agents.append(await self._start(name, "agent", *arguments))

    async def all_ready(self, client: AsyncSonicClient) -> None:
        """Wait until every agent has rendered its probe clip. Raises SonicError."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    nodes = await client.nodes()
                    if sum(node.state == nodes_pb2.NODE_STATE_READY for node in nodes) == len(self._agents):
                        return
                    for agent in self._agents:
                        agent.check()
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            states = ", ".join(f"{node.node_id}: {node.state_reason}" for node in nodes)
            message = f"the agents were not ready within {START_TIMEOUT_S:.0f} s ({states}); see `sonic doctor`"
            raise exceptions.SonicError(message) from None

    async def _start(self, name: str, kind: str, *arguments: str) -> Program:
        settings = self._folder / "config.toml"
        settings.touch()
        own = ["--http-listen", "127.0.0.1:0", "--data-dir", str(self._folder / name)]
        own += ["--log-format", "json", "--config", str(settings)]
        return await self._spawn(name, _SONIC, kind, *arguments, *own)

    async def _spawn(self, name: str, code: str, *arguments: str) -> Program:
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, str(os.getpid()), *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=_environment(),
                start_new_session=True,
            )
        return Program(name, process, log)


def _environment() -> dict[str, str]:
    """Ours, without the settings that the user has made for a hub or an agent."""
    own = {config.variable_of(table, name) for table in config.tables() for name in config.fields_of(table)}
    return {name: value for name, value in os.environ.items() if name not in own}
