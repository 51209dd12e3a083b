"""The `sonic` command as a process, in a home of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub.service import Hub
from tests.client.conftest import files, hub, node, proxy

__all__ = ["files", "hub", "node", "proxy"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Sonic = Callable[..., Awaitable[Ended]]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing has been configured."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SONIC_")}
    (tmp_path / "home").mkdir()
    return ours | {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home"), "SONIC_PATIENCE_S": "2"}


@pytest.fixture
def sonic(home: dict[str, str], tmp_path: Path) -> Sonic:
    async def run(*arguments: object, **environment: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sonic", *map(str, arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=home | environment,
            cwd=tmp_path,
        )
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode or 0, out.decode(), err.decode())

    return run


@pytest.fixture
def acme(sonic: Sonic, hub: Hub) -> Sonic:
    """The command of tenant acme, with its hub."""

    async def run(*arguments: object, **environment: str) -> Ended:
        return await sonic(
            *arguments, SONIC_HUB=hub.grpc_address, SONIC_TENANT="acme", SONIC_INSECURE="1", **environment
        )

    return run
