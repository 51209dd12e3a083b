"""A real agent process with real worker processes, against a real server that speaks the contract."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from sonic.v1 import fleet_service_pb2 as pb
from sonic.v1 import jobs_pb2, nodes_pb2
from tests.agent.conftest import DOUBLE, Leave, Start
from tests.agent.scripted_hub import PATIENCE_S, ScriptedHub, sha256
from tests.agent.test_probes import AMD, tree

pytestmark = pytest.mark.integration
READY, BUSY, BACKOFF = nodes_pb2.SLOT_STATE_READY, nodes_pb2.SLOT_STATE_BUSY, nodes_pb2.SLOT_STATE_BACKOFF
VIDEO = b"video of portrait"


def worker_pids(agent_pid: int) -> list[int]:
    """Processes whose parent is the agent."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == agent_pid and fields[0] != "Z":
            pids.append(int(stat.parent.name))
    return pids


def runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes while it is read
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while runs(pid):
            await asyncio.sleep(0.02)


async def is_empty(folder: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while any(folder.iterdir()):
            await asyncio.sleep(0.02)


async def test_a_job_is_fetched_rendered_uploaded_and_reported_once(hub: ScriptedHub, start: Start, tmp_path: Path):
    await start()
    hello = await hub.hello()
    assert (hello.node_id, hello.region, hello.draining) == ("box", "here", False)
    slot = await hub.slot_is(READY)
    assert slot.probe_realtime_factor == 3.0
    assert [(one.engine, one.model_version) for one in slot.engines] == [("warp", "double")]
    hub.assign("job", b"slow 0.5")
    result = await hub.result("job")
    assert hub.videos[result.video.video.sha256] == VIDEO
    assert result.video.report.frames == 12
    for kept in ("outbox", "scratch"):
        await is_empty(tmp_path / "data" / kept)
    fractions = [message.progress.progress.fraction for message in hub.heard if message.HasField("progress")]
    stages = {message.progress.progress.stage for message in hub.heard if message.HasField("progress")}
    assert fractions == sorted(fractions)
    assert {"fetching", "rendering", "uploading"} <= stages


async def test_inputs_that_are_kept_are_fetched_once_and_private(hub: ScriptedHub, start: Start, tmp_path: Path):
    await start(keep_inputs_s=60.0)
    await hub.slot_is(READY)
    for job in ("a", "b"):
        hub.assign(job, b"ok")
        assert (await hub.result(job)).HasField("video")
    assert sorted(sha for sha, _ in hub.served) == sorted([sha256(b"portrait"), sha256(b"ok")])
    cached = tmp_path / "data/inputs" / sha256(b"portrait")
    assert cached.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


async def test_what_a_hub_says_together_is_heard_in_its_order(hub: ScriptedHub, start: Start):
    hub.takes_several = True
    await start()
    assert (await hub.hello()).takes_several
    await hub.slot_is(READY)
    cancel = pb.CancelAttempt(ref=jobs_pb2.AttemptRef(job_id="job", attempt=1))
    hub.assign("job", b"slow 30", more=[pb.SessionResponse(cancel=cancel)])
    assert (await hub.result("job")).HasField("stopped")


async def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: ScriptedHub, start: Start):
    await start()
    await hub.slot_is(READY)
    hub.cut_inputs_after = [3]
    hub.assign("job", b"ok")
    assert (await hub.result("job")).HasField("video")
    assert hub.served[:2] == [(sha256(b"portrait"), 0), (sha256(b"portrait"), 3)]


async def test_bytes_that_do_not_match_their_hash_are_tried_twice_and_reported(hub: ScriptedHub, start: Start):
    await start()
    await hub.slot_is(READY)
    hub.assign("job", b"ok")
    hub.inputs[sha256(b"portrait")] = b"corrupt!"
    failure = (await hub.result("job")).failure
    assert (failure.fault, failure.reason) == (jobs_pb2.FAULT_KIND_TRANSFER, "INPUT_CORRUPT")
    assert [sha for sha, _ in hub.served] == [sha256(b"portrait")] * 2


async def test_a_crash_is_reported_and_the_next_worker_is_probed_before_it_is_offered(
    hub: ScriptedHub, start: Start, tmp_path: Path
):
    broken = tmp_path / "broken"
    await start(worker_command=(*DOUBLE, "--broken-while", str(broken)))
    await hub.slot_is(READY)
    broken.touch()
    hub.assign("job", b"crash")
    failure = (await hub.result("job")).failure
    assert (failure.fault, failure.reason) == (jobs_pb2.FAULT_KIND_CRASH, "WORKER_CRASHED")
    assert "SIGSEGV" in failure.message
    mark = len(hub.heard)
    await hub.until(lambda message: any("probe clip" in slot.detail for slot in message.heartbeat.slots), mark)
    assert not any(slot.state == READY for message in hub.heard[mark:] for slot in message.heartbeat.slots)
    broken.unlink()
    await hub.slot_is(READY, mark)


async def test_kill_9_of_a_worker_in_the_middle_of_a_render(hub: ScriptedHub, start: Start):
    agent = await start()
    await hub.slot_is(READY)
    hub.assign("job", b"slow 60")
    await hub.started("job")
    (pid,) = worker_pids(agent.process.pid)
    os.kill(pid, signal.SIGKILL)
    failure = (await hub.result("job")).failure
    assert failure.fault == jobs_pb2.FAULT_KIND_CRASH
    assert "SIGKILL" in failure.message
    await hub.slot_is(READY, len(hub.heard))
    hub.assign("job", b"ok", attempt=2)
    assert (await hub.result("job", len(hub.heard))).HasField("video")


async def test_why_a_worker_cannot_start_is_told_to_the_hub(hub: ScriptedHub, start: Start):
    await start(worker_command=("/bin/sh", "-c", "echo no model in the folder >&2; exit 3"))
    slot = await hub.slot_is(BACKOFF)
    assert slot.detail == "it ended with exit status 3; its last words: no model in the folder"


async def test_a_worker_program_that_does_not_exist_is_named(hub: ScriptedHub, start: Start):
    await start(worker_command=("/no/such/program",))
    slot = await hub.slot_is(BACKOFF)
    assert slot.detail == "/no/such/program could not be started: No such file or directory"


async def test_out_of_memory_said_by_the_worker_again_restarts_it(hub: ScriptedHub, start: Start):
    agent = await start()
    await hub.slot_is(READY)
    (before,) = worker_pids(agent.process.pid)
    hub.assign("first", b"oom")
    assert (await hub.result("first")).failure.fault == jobs_pb2.FAULT_KIND_OUT_OF_MEMORY
    await hub.slot_is(READY, len(hub.heard))
    assert worker_pids(agent.process.pid) == [before]
    hub.assign("second", b"oom")
    assert (await hub.result("second")).failure.fault == jobs_pb2.FAULT_KIND_OUT_OF_MEMORY
    await gone(before)


@pytest.mark.parametrize("how", [b"hang", b"silent"])
async def test_a_worker_that_hangs_is_killed_and_the_attempt_times_out(hub: ScriptedHub, start: Start, how: bytes):
    agent = await start(stall_timeout_s=1.5, silence_timeout_s=3.0)
    await hub.slot_is(READY)
    (pid,) = worker_pids(agent.process.pid)
    hub.assign("job", how)
    failure = (await hub.result("job")).failure
    assert (failure.fault, failure.reason) == (jobs_pb2.FAULT_KIND_TIMEOUT, "WORKER_HUNG")
    await gone(pid)


async def test_cancel_frees_the_slot_and_keeps_the_worker(hub: ScriptedHub, start: Start):
    agent = await start(cancel_grace_s=30)
    await hub.slot_is(READY)
    pids = worker_pids(agent.process.pid)
    hub.assign("job", b"slow 60")
    await hub.started("job")
    hub.say(cancel=pb.CancelAttempt(ref=jobs_pb2.AttemptRef(job_id="job", attempt=1), reason="the caller"))
    assert (await hub.result("job")).HasField("stopped")
    await hub.slot_is(READY, len(hub.heard))
    assert worker_pids(agent.process.pid) == pids


async def test_a_worker_that_does_not_let_go_on_cancel_is_killed(hub: ScriptedHub, start: Start):
    agent = await start()
    await hub.slot_is(READY)
    (pid,) = worker_pids(agent.process.pid)
    hub.assign("job", b"stubborn")
    await hub.started("job")
    hub.say(cancel=pb.CancelAttempt(ref=jobs_pb2.AttemptRef(job_id="job", attempt=1)))
    assert (await hub.result("job")).HasField("stopped")
    await gone(pid)
    await hub.slot_is(READY, len(hub.heard))


async def test_a_second_assignment_to_a_busy_slot_is_declined(hub: ScriptedHub, start: Start, leave: Leave):
    await start()
    await hub.slot_is(READY)
    hub.assign("first", leave.voice)
    hub.assign("second", b"ok")
    assert (await hub.result("second")).failure.fault == jobs_pb2.FAULT_KIND_DECLINED
    leave.give()
    assert (await hub.result("first")).HasField("video")


async def test_a_render_that_ends_during_a_cut_is_delivered_after_it(hub: ScriptedHub, start: Start, leave: Leave):
    agent = await start()
    await hub.slot_is(READY)
    hub.assign("job", leave.voice)
    await hub.started("job")
    await hub.stop()
    mark = len(hub.heard)
    leave.give()
    await agent.logged("attempt ended")
    await hub.start()
    hello = await hub.hello(mark)
    assert [ref.job_id for ref in (*hello.running, *hello.finished)] == ["job"]
    result = await hub.result("job", mark)
    assert hub.videos[result.video.video.sha256] == VIDEO


async def test_a_session_that_the_hub_ends_is_opened_again_with_what_runs(hub: ScriptedHub, start: Start, leave: Leave):
    await start()
    await hub.slot_is(READY)
    hub.assign("job", leave.voice)
    await hub.started("job")
    mark = len(hub.heard)
    hub.cut()
    assert [ref.job_id for ref in (await hub.hello(mark)).running] == ["job"]
    await hub.until(lambda message: message.started.ref.job_id == "job", mark)
    leave.give()
    assert (await hub.result("job", mark)).HasField("video")


async def test_kill_9_of_the_agent_with_a_result_in_the_outbox(hub: ScriptedHub, start: Start, tmp_path: Path):
    hub.acknowledging = False
    agent = await start()
    await hub.slot_is(READY)
    hub.assign("job", b"ok")
    first = await hub.result("job")
    (worker,) = worker_pids(agent.process.pid)
    await agent.kill()
    await gone(worker)
    hub.videos.clear()
    hub.acknowledging = True
    mark = len(hub.heard)
    await start()
    assert [ref.job_id for ref in (await hub.hello(mark)).finished] == ["job"]
    assert await hub.result("job", mark) == first
    assert list(hub.videos.values()) == [VIDEO]
    await is_empty(tmp_path / "data/outbox")


async def test_a_hub_that_has_lost_the_video_gets_it_again(hub: ScriptedHub, start: Start, tmp_path: Path):
    hub.acknowledging = False
    await start()
    await hub.slot_is(READY)
    hub.assign("job", b"ok")
    await hub.result("job")
    hub.videos.clear()
    hub.acknowledging = True
    mark = len(hub.heard)
    ref = jobs_pb2.AttemptRef(job_id="job", attempt=1)
    hub.say(result_ack=pb.ResultAck(ref=ref, verdict=pb.RESULT_VERDICT_VIDEO_MISSING))
    await hub.result("job", mark)
    assert list(hub.videos.values()) == [VIDEO]
    await is_empty(tmp_path / "data/outbox")


async def test_sigterm_finishes_and_delivers_what_runs_and_takes_nothing_new(
    hub: ScriptedHub, start: Start, leave: Leave
):
    agent = await start(slots=2)
    await hub.until(lambda message: [slot.state for slot in message.heartbeat.slots] == [READY, READY])
    hub.assign("job", leave.voice)
    await hub.started("job")
    workers = worker_pids(agent.process.pid)
    agent.signal(signal.SIGTERM)
    await hub.until(lambda message: message.HasField("draining"))
    hub.assign("late", b"ok", slot=1)
    assert (await hub.result("late")).failure.fault == jobs_pb2.FAULT_KIND_DECLINED
    leave.give()
    assert (await hub.result("job")).HasField("video")
    assert await agent.ended() == 0
    assert agent.words == ""
    for pid in workers:
        await gone(pid)


async def test_sigterm_hands_back_what_does_not_end_in_time(hub: ScriptedHub, start: Start):
    agent = await start(drain_timeout_s=0.5)
    await hub.slot_is(READY)
    hub.assign("job", b"stubborn")
    await hub.started("job")
    agent.signal(signal.SIGTERM)
    assert (await hub.result("job")).failure.fault == jobs_pb2.FAULT_KIND_DECLINED
    assert await agent.ended() == 0


async def test_sigterm_without_a_hub_leaves_the_result_for_the_next_life(
    hub: ScriptedHub, start: Start, tmp_path: Path, leave: Leave
):
    agent = await start(flush_timeout_s=0.5)
    await hub.slot_is(READY)
    hub.assign("job", leave.voice)
    await hub.started("job")
    await hub.stop()
    leave.give()
    await agent.logged("attempt ended")
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    mark = len(hub.heard)
    await hub.start()
    await start()
    assert (await hub.result("job", mark)).HasField("video")
    await is_empty(tmp_path / "data/outbox")


async def test_a_second_agent_on_the_same_folder_is_refused(hub: ScriptedHub, start: Start):
    first = await start()
    await hub.hello()
    second = await start()
    assert await second.ended() == 1
    assert f"which another agent (process {first.process.pid}) is using" in second.words
    assert "Traceback" not in second.words


async def test_a_port_that_is_taken_is_named(hub: ScriptedHub, start: Start):
    agent = await start(http_listen=hub.address)
    assert await agent.ended() == 1
    assert f"http_listen is '{hub.address}', which cannot be used" in agent.words


async def test_http_tells_health_readiness_and_numbers(hub: ScriptedHub, start: Start, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.touch()
    agent = await start(worker_command=(*DOUBLE, "--broken-while", str(broken)))
    address = (await agent.logged("agent started"))["http"]
    await hub.slot_is(BACKOFF)
    async with aiohttp.ClientSession(f"http://{address}") as http:
        assert (await http.get("/healthz")).status == 200
        not_ready = await http.get("/readyz")
        assert (not_ready.status, (await not_ready.text())[:7]) == (503, "slot 0:")
        broken.unlink()
        await hub.slot_is(READY, len(hub.heard))
        assert (await http.get("/readyz")).status == 200
        for job, voice in (("good", b"ok"), ("bad", b"no face")):
            hub.assign(job, voice)
            await hub.result(job)
        text, gauges = "", ("sonic_worker_memory_bytes{", "sonic_execution_provider_info{", "sonic_probe_up{")
        while not all(gauge in text for gauge in gauges):  # they come with a tick
            text = await (await http.get("/metrics")).text()
        openmetrics = await http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert openmetrics.content_type == "application/openmetrics-text"
        assert (await openmetrics.text()).endswith("# EOF\n")
    place = 'model_version="double",node_id="box",region="here"'
    job = f'{place},tenant="acme"'
    labels_of_error = 'model_version="double",node_id="box",reason="NO_FACE",region="here",tenant="acme"'
    assert f"sonic_request_total{{{job}}} 2.0" in text
    assert f"sonic_error_total{{{labels_of_error}}} 1.0" in text
    assert f"sonic_inference_duration_seconds{{{job}}}" in text
    assert f"sonic_render_seconds_count{{{job}}} 1.0" in text
    assert f"sonic_queue_seconds_count{{{job}}} 2.0" in text
    assert f"sonic_session_reconnects_total{{{place}}} 0.0" in text
    assert f'sonic_worker_memory_bytes{{{place},slot="0"}}' in text
    about = 'model_version="double",network="mouth",node_id="box",provider="cuda",region="here"'
    assert f"sonic_execution_provider_info{{{about}}} 1.0" in text
    assert 'sonic_probe_up{model_version="double",node_id="box",probe="host",region="here"} 1.0' in text


async def test_systemd_is_told_of_readiness_life_and_stopping(hub: ScriptedHub, start: Start, tmp_path: Path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.setblocking(False)
        agent = await start(environment={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "500000"})
        told: list[str] = []

        async def until(word: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while word not in told[-1:]:
                    told.append((await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode().split("\n")[0])

        await until("READY=1")
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in told)
        await hub.slot_is(READY)
        await until("WATCHDOG=1")
        told.clear()
        await until("WATCHDOG=1")
        agent.signal(signal.SIGTERM)
        await until("STOPPING=1")
        assert await agent.ended() == 0


async def test_a_driver_that_does_not_return_is_told_and_keeps_nobody_from_stopping(
    hub: ScriptedHub, start: Start, tmp_path: Path
):
    device = "sys/class/drm/card1/device"
    root = tree(tmp_path, {f"{device}/{name}": value for name, value in AMD.items()})
    (root / device / "gpu_busy_percent").unlink()
    os.mkfifo(root / device / "gpu_busy_percent")  # to open it takes for ever: nobody writes
    agent = await start(root=root)
    address = (await agent.logged("agent started"))["http"]
    await hub.slot_is(READY)
    assert (await agent.logged("probe failed"))["probe"] == "amd"
    async with aiohttp.ClientSession(f"http://{address}") as http:
        text = ""
        while 'probe="amd"' not in text:
            text = await (await http.get("/metrics")).text()
    place = 'model_version="double",node_id="box"'
    assert f'sonic_probe_up{{{place},probe="amd",region="here"}} 0.0' in text
    assert f'sonic_probe_up{{{place},probe="host",region="here"}} 1.0' in text
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
