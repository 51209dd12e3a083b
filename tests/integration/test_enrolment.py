"""From nothing to two nodes and back, by the commands that an operator types."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sonic.client import SonicClient
from sonic.v1 import jobs_pb2, nodes_pb2
from tests.agent.conftest import DOUBLE
from tests.hub.peers import JPEG, WAV
from tests.processes import Process, free_port, process, wait_until_ready

SONIC = (sys.executable, "-m", "sonic")


async def command(*arguments: object, **environment: str) -> tuple[int, str, str]:
    made = await asyncio.create_subprocess_exec(
        *SONIC,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": environment.pop("HOME"), **environment},
    )
    out, err = await made.communicate()
    return made.returncode or 0, out.decode().strip(), err.decode()


async def until(told: Callable[[], bool], what: str) -> None:
    limit_s = time.monotonic() + 60
    while not await asyncio.to_thread(told):
        assert time.monotonic() < limit_s, what
        await asyncio.sleep(0.1)


@pytest.mark.integration
async def test_from_a_token_to_a_node_that_is_revoked_while_it_renders(tmp_path: Path) -> None:
    callers, agents, http = (f"127.0.0.1:{free_port()}" for _ in range(3))
    data_dir = tmp_path / "hub"
    start = [*SONIC, "hub", "--listen", callers, "--agent-listen", agents, "--http-listen", http]
    start += ["--data-dir", str(data_dir), "--heartbeat-interval-s", "0.5", "--lease-s", "2"]
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(process(start, tmp_path / "hub.log"))
        await asyncio.to_thread(wait_until_ready, f"http://{http}/readyz", hub)
        ca_file, key_file = data_dir / "authority" / "authority.pem", data_dir / "operator.key"
        at = ("--hub", callers, "--ca-file", ca_file, "--api-key-file", key_file)
        home = {"HOME": str(tmp_path)}
        code, token, err = await command("hub", "token", "create", "--region", "eu", "--uses", 2, *at, **home)
        assert (code, token[:13]) == (0, "sonic-join-1."), err
        (tmp_path / "token").write_text(token)
        operator = stack.enter_context(SonicClient(callers, "acme", ca_file=ca_file, api_key_file=key_file))
        caller_key = tmp_path / "acme.key"
        code, key, err = await command("tenants", "create", "acme", *at, **home)
        assert code == 0, err
        caller_key.write_text(key)
        caller = stack.enter_context(SonicClient(callers, ca_file=ca_file, api_key_file=caller_key))
        boxes: dict[str, Process] = {}
        for name in ("box-1", "box-2"):
            box = [*SONIC, "agent", "--hub", agents, "--enrol-at", callers, "--node-id", name, "--region", "eu"]
            box += ["--data-dir", str(tmp_path / name), "--http-listen", "127.0.0.1:0", "--log-format", "json"]
            box += ["--join-token-file", str(tmp_path / "token")]
            box += [part for word in (*DOUBLE, "--does=hang") for part in ("--worker-command", word)]
            boxes[name] = stack.enter_context(process(box, tmp_path / f"{name}.log"))

        def ready() -> bool:
            return sum(node.state == nodes_pb2.NODE_STATE_READY for node in operator.nodes()) == 2

        await until(ready, "the boxes are not ready")
        code, listed, _ = await command("hub", "token", "list", "--json", *at, **home)
        assert [one.get("uses_left", 0) for one in json.loads(listed)] == [0]
        assert token.rpartition(".")[2] not in listed + hub.log.read_text()
        job = await asyncio.to_thread(_submitted, caller, tmp_path)
        await until(lambda: caller.get(job).state == jobs_pb2.JOB_STATE_RUNNING, "the job does not run")
        first = caller.get(job).attempts[-1].node_id
        assert (await command("nodes", "revoke", first, *at, **home))[0] == 0
        await until(lambda: operator.node(first).state == nodes_pb2.NODE_STATE_OFFLINE, "it is still there")

        def elsewhere() -> bool:
            attempts = caller.get(job).attempts
            return attempts[-1].node_id != first and len(attempts) == 2

        await until(elsewhere, "the job has not gone elsewhere")
        await until(lambda: "was revoked" in boxes[first].log.read_text(), "the box has not been told")
        assert (await command("nodes", "revoke", first, "--undo", *at, **home))[0] == 0
        await until(lambda: operator.node(first).state != nodes_pb2.NODE_STATE_OFFLINE, "it does not come back")
        caller.cancel(job)
        for folder in (tmp_path / "elsewhere", None):  # its node enrols elsewhere, and it gets a token to come back
            code, token, err = await command("hub", "token", "create", "--region", "eu", "--node", first, *at, **home)
            assert code == 0, err
            (tmp_path / "token").write_text(token)
            if folder:
                join = ("--enrol-at", callers, "--region", "eu", "--node-id", first, "--data-dir", folder)
                code, _, err = await command("agent", "enrol", *join, "--join-token-file", tmp_path / "token", **home)
                assert code == 0, err
                await until(lambda: operator.node(first).state == nodes_pb2.NODE_STATE_OFFLINE, "it is still there")
        await until(lambda: operator.node(first).state != nodes_pb2.NODE_STATE_OFFLINE, "it does not come back")
        for box in boxes.values():
            assert box.stop() == 0


def _submitted(client: SonicClient, folder: Path) -> str:
    (folder / "face.jpg").write_bytes(JPEG)
    (folder / "voice.wav").write_bytes(WAV)
    return client.submit(folder / "face.jpg", folder / "voice.wav").job_id
