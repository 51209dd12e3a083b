from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from tests.agent.scripted_hub import PATIENCE_S, ScriptedHub

DOUBLE = (sys.executable, str(Path(__file__).with_name("worker_double.py")))
MAIN = """
import asyncio, json, pathlib, sys
from agent import config, service
from agent.probes import hardware, sysfs
from sonic import logs

given = json.loads(sys.argv[1])
if sys.argv[2:]:  # where a driver has written what it would write under /sys
    hardware.detect = lambda: [sysfs.AmdProbe(pathlib.Path(sys.argv[2]))]
if given.get("join_token_file"):
    given["join_token_file"] = pathlib.Path(given["join_token_file"])
given |= {"data_dir": pathlib.Path(given["data_dir"]), "worker_command": tuple(given["worker_command"])}
logs.configure("json", "info")
try:
    asyncio.run(service.run(config.AgentConfig(**given)))
except config.InvalidConfig as error:
    sys.exit(str(error))
"""


class AgentProcess:
    """A real agent in a process of its own."""

    def __init__(self, config: AgentConfig, environment: dict[str, str], root: Path | None) -> None:
        self._given = [json.dumps(asdict(config), default=str), *([str(root)] if root else [])]
        self._environment = {**os.environ, **environment}
        self._reader: asyncio.Task[None] | None = None
        self.log: list[dict[str, Any]] = []
        self.words = ""  # what is no log

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAIN, *self._given, stderr=asyncio.subprocess.PIPE, env=self._environment
        )
        self._reader = asyncio.create_task(self._read(), name="agent's log")

    async def _read(self) -> None:
        assert self.process.stderr
        while line := await self.process.stderr.readline():
            try:
                self.log.append(json.loads(line))
            except json.JSONDecodeError:
                self.words += line.decode()

    async def logged(self, message: str, times: int = 1) -> dict[str, Any]:
        """The last of so many lines, at least."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [line for line in self.log if line["message"] == message]) < times:
                await asyncio.sleep(0.02)
        return found[-1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            status = await self.process.wait()
            assert self._reader
            await self._reader
        return status

    async def kill(self) -> None:
        """All that it has said is in the log then."""
        if self.process.returncode is None:
            self.signal(signal.SIGKILL)
            await self.ended()


Start = Callable[..., Any]


class Leave:
    """A render whose voice is `voice` goes on until it has leave to end."""

    def __init__(self, folder: Path) -> None:
        self._given = folder / "leave-to-end"
        self.voice = f"until {self._given}".encode()

    def give(self) -> None:
        self._given.touch()


@pytest.fixture
def leave(tmp_path: Path) -> Leave:
    return Leave(tmp_path)


@pytest.fixture
async def hub() -> AsyncIterator[ScriptedHub]:
    hub = ScriptedHub()
    await hub.start()
    yield hub
    await hub.stop()


@pytest.fixture
async def start(hub: ScriptedHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Start]:
    """Starts an agent: `await start()`, with any setting of AgentConfig, `environment`, and a `root` with GPUs."""
    agents: list[AgentProcess] = []

    async def begin(
        environment: dict[str, str] | None = None, root: Path | None = None, **settings: Any
    ) -> AgentProcess:
        usual: dict[str, Any] = {
            "hub": hub.address,
            "node_id": "box",
            "region": "here",
            "data_dir": tmp_path / "data",
            "http_listen": "127.0.0.1:0",
            "insecure": True,
            "cancel_grace_s": 0.5,
            "worker_command": DOUBLE,
        }
        agent = AgentProcess(AgentConfig(**{**usual, **settings}), environment or {}, root)
        agents.append(agent)
        await agent.start()
        return agent

    yield begin
    for agent in agents:
        await agent.kill()
        for line in agent.log:
            print(line)
        print(agent.words)
