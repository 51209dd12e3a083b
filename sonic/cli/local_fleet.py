"""A real hub and real agents on this machine, on free ports, that leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from sonic import config, exceptions
from sonic.client import AsyncSonicClient
from sonic.v1 import nodes_pb2

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
_LOOK_AGAIN_S = 0.1


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

    async def stop(self) -> None:
        """SIGTERM, and whatever is left after a while is killed with all that it started."""
        if self.process.returncode is None:
            self.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@contextlib.asynccontextmanager
async def hub(folder: Path) -> AsyncIterator[str]:
    """A hub with its data in `folder`; the answer is its gRPC address."""
    arguments = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir", str(folder / "hub")]
    async with _program("hub", folder, "hub", *arguments) as program:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (serving := program.said("serving")):
                program.check()
                await asyncio.sleep(_LOOK_AGAIN_S)
        yield serving["grpc"]


@contextlib.asynccontextmanager
async def agents(folder: Path, address: str, names: list[str]) -> AsyncIterator[list[Program]]:
    """Agents of the hub at `address`, one after another in their starting, all together in their work."""
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for name in names:
            arguments = ["--hub", address, "--node-id", name, "--region", "demo", "--http-listen", "127.0.0.1:0"]
            program = _program(name, folder, "agent", *arguments, "--data-dir", str(folder / name))
            started.append(await stack.enter_async_context(program))
        yield started


async def all_ready(client: AsyncSonicClient, programs: list[Program]) -> None:
    """Wait until every agent has rendered its probe clip. Raises SonicError."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                nodes = await client.nodes()
                if sum(node.state == nodes_pb2.NODE_STATE_READY for node in nodes) == len(programs):
                    return
                for program in programs:
                    program.check()
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        states = ", ".join(f"{node.node_id}: {node.state_reason}" for node in nodes)
        message = f"the agents were not ready within {START_TIMEOUT_S:.0f} s ({states}); see `sonic doctor`"
        raise exceptions.SonicError(message) from None


@contextlib.asynccontextmanager
async def _program(name: str, folder: Path, *arguments: str) -> AsyncIterator[Program]:
    log = folder / f"{name}.log"
    settings = folder / "config.toml"
    settings.touch()
    command = [sys.executable, "-m", "sonic", *arguments, "--log-format", "json", "--config", str(settings)]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=_environment(),
            start_new_session=True,
        )
    program = Program(name, process, log)
    try:
        yield program
    finally:
        await asyncio.shield(program.stop())


def _environment() -> dict[str, str]:
    """Ours, without the settings that the user has made for a hub or an agent."""
    own = {config.variable_of(table, name) for table in config.tables() for name in config.fields_of(table)}
    return {name: value for name, value in os.environ.items() if name not in own}
