"""A worker has what it needs and no more, and nothing of a job stays on the box when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent import confinement
from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import jobs_pb2, nodes_pb2
from tests.agent.conftest import Start
from tests.agent.scripted_hub import PATIENCE_S, ScriptedHub
from tests.agent.test_agent_process import is_empty, worker_pids
from tests.folders import bytes_below

pytestmark = pytest.mark.integration
READY = nodes_pb2.SLOT_STATE_READY
TELLS = """
import json, os, resource, socket, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def tried(action):
    try:
        action()
        return ""
    except OSError as error:
        return type(error).__name__
def writes():
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(2 << 20))
print(json.dumps({
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "address": resource.getrlimit(resource.RLIMIT_AS),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "umask": status["Umask"].strip(),
    "user": [os.getuid(), os.getgid()],
    "victim": open("/proc/self/oom_score_adj").read().strip(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "calls": tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 2)),
    "writes": tried(writes),
}))
"""


def told(tmp_path: Path, limits: confinement.Limits, port: int, **more: Any) -> dict[str, Any]:
    program = [sys.executable, "-c", TELLS, str(tmp_path / "large"), str(port)]
    done = subprocess.run(
        confinement.command(limits, program), capture_output=True, text=True, timeout=60, check=True, **more
    )
    found: dict[str, Any] = json.loads(done.stdout)
    found["said"] = done.stderr
    return found


async def test_a_program_is_confined_before_it_begins(hub: ScriptedHub, tmp_path: Path) -> None:
    limits = confinement.Limits(file_bytes=1 << 20, open_files=64, address_bytes=1 << 34)
    found = await asyncio.to_thread(told, tmp_path, limits, hub.port)
    assert found["core"] == [0, 0]
    assert found["files"] == [64, 64]
    assert found["address"] == [1 << 34] * 2
    assert (found["no_new_privs"], found["umask"], found["victim"]) == ("1", "0077", "500")
    assert found["user"] == [os.getuid(), os.getgid()]
    assert found["writes"] == "OSError"
    assert (tmp_path / "large").stat().st_size <= 1 << 20
    if "the network is open" in found["said"]:
        pytest.skip("this system makes no network namespaces for this user, and the worker says so")
    assert found["interfaces"] in ([], ["lo"])
    assert found["calls"]


def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        confinement.command(confinement.Limits(), [str(tmp_path / "missing")]), capture_output=True, text=True
    )
    assert done.returncode == confinement.EXIT_NOT_STARTED
    assert "could not be started: No such file" in done.stderr


def test_no_secret_of_the_agents_environment_is_a_workers() -> None:
    given = {
        **{name: "x" for name in ("PATH", "CUDA_VISIBLE_DEVICES", "SONIC_ENGINE_OPTIONS", "LC_ALL", "PYTHONPATH")},
        **{name: "x" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "SONIC_API_KEY", "HF_TOKEN")},
        **{
            name: "x"
            for name in ("SONIC_AGENT_JOIN_TOKEN_FILE", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "PGPASSWORD")
        },
        **{name: "x" for name in ("TORCH_SECRET", "SSH_AUTH_SOCK", "HTTPS_PROXY")},
    }
    kept = {"PATH", "CUDA_VISIBLE_DEVICES", "SONIC_ENGINE_OPTIONS", "LC_ALL", "PYTHONPATH"}
    assert set(confinement.environment(given)) == kept


async def test_an_agents_workers_are_confined(hub: ScriptedHub, start: Start, tmp_path: Path) -> None:
    agent = await start(environment={"AWS_SECRET_ACCESS_KEY": "hidden", "NOTIFY_SOCKET": "/nowhere"})
    await hub.slot_is(READY)
    (pid,) = worker_pids(agent.process.pid)
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    names = {line.partition("=")[0] for line in environment}
    assert not names & {"AWS_SECRET_ACCESS_KEY", "NOTIFY_SOCKET"}
    assert f"TMPDIR={tmp_path / 'data/workers/worker-0.1'}" in environment
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Umask:\t0077" in status
    assert os.getsid(pid) == pid
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    if not any("the network is open" in line["message"] for line in agent.log):
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


# Nothing stays.

PORTRAIT = b"the portrait of somebody who shall not be found"


def holding(*folders: Path) -> list[Path]:
    """Files in which something of the job can be read: portrait, voice, state or video."""
    kept = ("voice", "state", "video.mp4")
    return [path for path, data in bytes_below(*folders).items() if PORTRAIT in data or path.name in kept]


async def until_nothing_is_left(data_dir: Path) -> None:
    """No file in which anything of a job can be read, and none where files of jobs are kept."""
    until = time.monotonic() + PATIENCE_S
    while left := [
        *await asyncio.to_thread(holding, data_dir),
        *(path for part in ("inputs", "scratch", "outbox") for path in (data_dir / part).iterdir()),
    ]:
        assert time.monotonic() < until, left
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("voice", [b"ok", b"no face", b"crash", b"oom", b"stubborn", b"slow 60"])
async def test_nothing_of_a_job_stays_when_it_has_ended(
    hub: ScriptedHub, start: Start, tmp_path: Path, voice: bytes
) -> None:
    begun = time.time()
    await start(environment={"TMPDIR": str(tmp_path)})
    await hub.slot_is(READY)
    hub.assign("job", voice, PORTRAIT)
    if voice in (b"stubborn", b"slow 60"):
        await hub.started("job")
        assert holding(tmp_path / "data"), "while it runs, it is there"
        hub.say(cancel=pb.CancelAttempt(ref=jobs_pb2.AttemptRef(job_id="job", attempt=1), reason="told to"))
    await hub.result("job")
    await until_nothing_is_left(tmp_path / "data")
    for path in Path("/tmp").iterdir():
        with contextlib.suppress(FileNotFoundError):  # others come and go there
            if path.is_file() and path.stat().st_mtime >= begun and path.stat().st_size < 1 << 20:
                assert PORTRAIT not in path.read_bytes(), path


async def test_nothing_stays_after_kill_9_of_the_worker(hub: ScriptedHub, start: Start, tmp_path: Path) -> None:
    agent = await start()
    await hub.slot_is(READY)
    hub.assign("job", b"slow 60", PORTRAIT)
    await hub.started("job")
    (pid,) = worker_pids(agent.process.pid)
    os.kill(pid, signal.SIGKILL)
    await hub.result("job")
    await until_nothing_is_left(tmp_path / "data")


async def test_nothing_stays_after_kill_9_of_the_agent_once_it_is_back(
    hub: ScriptedHub, start: Start, tmp_path: Path
) -> None:
    agent = await start()
    await hub.slot_is(READY)
    hub.assign("job", b"slow 60", PORTRAIT)
    await hub.started("job")
    await agent.kill()
    assert holding(tmp_path / "data")
    await start()
    await until_nothing_is_left(tmp_path / "data")


async def test_nothing_stays_of_a_download_that_failed(hub: ScriptedHub, start: Start, tmp_path: Path) -> None:
    await start()
    await hub.slot_is(READY)
    hub.assign("job", b"ok", PORTRAIT)
    for name, data in list(hub.inputs.items()):
        hub.inputs[name] = data[:-3] + b"???"
    assert (await hub.result("job")).failure.reason == "INPUT_CORRUPT"
    await until_nothing_is_left(tmp_path / "data")


async def test_inputs_that_are_kept_for_a_while_go_after_it(hub: ScriptedHub, start: Start, tmp_path: Path) -> None:
    agent = await start(keep_inputs_s=4.0)
    assert not (await hub.hello()).forgets_inputs
    await hub.slot_is(READY)
    hub.assign("job", b"ok", PORTRAIT)
    await hub.result("job")
    for emptied in ("outbox", "scratch"):
        await is_empty(tmp_path / "data" / emptied)
    assert holding(tmp_path / "data")
    await until_nothing_is_left(tmp_path / "data")
    assert agent.process.returncode is None
