"""What each command prints, and what its exit code says, against a real hub."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from datetime import UTC, datetime

import pytest

from hub.service import Hub
from sonic.cli.jobs import _print
from sonic.v1 import jobs_pb2
from tests.client.conftest import busy
from tests.hub import peers
from tests.processes import process


async def test_submit_prints_the_id_and_nothing_else(acme, files) -> None:
    ended = await acme("submit", *files, "--fps", 30, "--no-smooth-motion", "--priority", 3)
    assert ended.code == 0
    (job_id,) = ended.out.split()
    shown = (await acme("jobs", "show", job_id, "--json")).data
    assert shown["state"] == "JOB_STATE_QUEUED"
    assert shown["spec"]["parameters"]["fps"] == 30
    assert shown["spec"]["parameters"]["smooth_motion"] is False
    assert shown["spec"]["parameters"]["lip_sync_correction"] is True
    assert shown["spec"]["priority"] == 3


async def test_submit_takes_regions_and_a_deadline_and_show_tells_them(acme, files) -> None:
    regions = ("--prefer-region", "eu", "--prefer-region", "us", "--avoid-region", "ap")
    job_id = (await acme("submit", *files, *regions, "--deadline", "10m")).out.strip()
    spec = (await acme("jobs", "show", job_id, "--json")).data["spec"]
    assert spec["regions"] == {"prefer": ["eu", "us"], "require": [], "avoid": ["ap"]}
    left_s = (datetime.fromisoformat(spec["deadline"]) - datetime.now(UTC)).total_seconds()
    assert 500 < left_s < 600
    shown = (await acme("jobs", "show", job_id)).out
    assert "regions     prefer eu, us; avoid ap\n" in shown
    assert f"deadline    {spec['deadline'][:10]}" in shown
    assert "queue       number 1\n" in shown


def test_show_tells_when_a_job_should_start_and_finish(capsys) -> None:
    job = jobs_pb2.Job(job_id="j", state=jobs_pb2.JOB_STATE_QUEUED, queue_position=2)
    job.forecast.start.CopyFrom(jobs_pb2.SecondsRange(expected=40, low=20, high=90))
    job.forecast.finish.CopyFrom(jobs_pb2.SecondsRange(expected=100, low=70, high=100))
    _print(job)
    said = capsys.readouterr().out
    assert "starts      in about 40 s (20 s to 1 min 30 s)\n" in said
    assert "finishes    in about 1 min 40 s (1 min 10 s to 1 min 40 s)\n" in said


async def test_submit_and_wait_leaves_the_video(acme, node, files, tmp_path) -> None:
    async with busy(node):
        ended = await acme("submit", *files, "-o", "out/video.mp4", "--json")
    assert ended.code == 0
    assert (tmp_path / "out" / "video.mp4").read_bytes() == peers.MP4
    assert ended.data["state"] == "JOB_STATE_SUCCEEDED"
    assert ended.data["output"] == "out/video.mp4"
    assert "succeeded" in ended.err


async def test_wait_names_the_video_after_the_recording(acme, node, files, tmp_path) -> None:
    async with busy(node):
        ended = await acme("submit", *files, "--wait")
    assert ended.out.strip() == "voice.mp4"
    assert (tmp_path / "voice.mp4").read_bytes() == peers.MP4


async def test_a_name_that_nobody_chose_replaces_no_file(acme, node, files, tmp_path) -> None:
    (tmp_path / "voice.mp4").write_bytes(files[1].read_bytes())
    ended = await acme("submit", files[0], "voice.mp4", "--wait")
    assert ended.code == 3
    assert "voice.mp4 is already there" in ended.err or "which is an input" in ended.err
    ended = await acme("submit", *files, "--wait")
    assert (ended.code, ended.err) == (3, "error: voice.mp4 is already there; name the video with -o\n")
    assert (await acme("jobs", "list", "--json")).data == []
    async with busy(node):
        job_id = (await acme("submit", *files, "-o", "voice.mp4", "--json")).data["job_id"]
    (tmp_path / f"{job_id}.mp4").touch()
    assert (await acme("jobs", "fetch", job_id)).code == 3
    assert (tmp_path / f"{job_id}.mp4").read_bytes() == b""


async def test_a_file_that_came_during_the_render_is_not_replaced(acme, node, files, tmp_path) -> None:
    waiting = asyncio.create_task(acme("submit", *files, "--wait"))
    ref = (await node.hear("assignment")).assignment.ref
    (tmp_path / "voice.mp4").write_bytes(b"mine")
    await node.upload_video(ref)
    node.report_video(ref)
    ended = await waiting
    assert ended.code == 3
    assert f"sonic jobs fetch {ref.job_id} -o FILE" in ended.err
    assert (tmp_path / "voice.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("command", ["submit", "render"])
async def test_a_video_cannot_go_where_an_input_is_or_no_file_can_be(acme, files, tmp_path, command) -> None:
    voice = files[1].rename(tmp_path / "voice.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    given = [files[0], voice] if command == "submit" else ["--portrait", files[0], "--audio", voice]
    for out, said in (
        ("voice.mp4", "--out is 'voice.mp4', which is an input"),
        ("face.jpg/x/v.mp4", f"the folder {files[0]} cannot be written"),
        (".mp4/", "does not end in .mp4"),
        ("x" * 300 + ".mp4", "whose name has 304 bytes; 232 is the limit"),
        ("x" * 300 + "/v.mp4", "cannot be written: File name too long"),
        ("loop.mp4", "--out is 'loop.mp4', which cannot be written: Too many levels of symbolic links"),
    ):
        ended = await acme(command, *given, "-o", out)
        assert ended.code in (2, 3)
        assert said in ended.err
    assert (await acme("jobs", "list", "--json")).data == []


@pytest.mark.parametrize("json", [(), ("--json",)])
async def test_a_failed_job_is_exit_code_1_with_its_reason(acme, node, files, json) -> None:
    waiting = asyncio.create_task(acme("submit", *files, "--wait", *json))
    ref = (await node.hear("assignment")).assignment.ref
    failure = {"ref": ref, "failure": {"fault": 1, "reason": "NO_FACE", "message": "No face was found."}}
    node.say(result=failure)
    ended = await waiting
    assert ended.code == 1
    assert "No face was found. (NO_FACE)" in ended.err
    assert "failed, NO_FACE\n" in "".join((await acme("jobs", "list")).out.replace(" \n", "\n"))
    assert ended.data["failure"]["reason"] == "NO_FACE" if json else ended.out == ""


async def test_stopping_to_wait_says_how_to_go_on(acme, hub: Hub, home, files) -> None:
    waiting = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sonic", "submit", *map(str, files), "--wait", "--insecure", "--hub", hub.grpc_address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=home,
    )
    assert waiting.stderr
    first = await waiting.stderr.readline()
    assert b"queued" in first
    waiting.send_signal(signal.SIGINT)
    _, err = await waiting.communicate()
    assert waiting.returncode == 130
    assert b"the job goes on: sonic jobs watch" in err
    assert b"Traceback" not in err


async def test_jobs_are_listed_shown_cancelled_watched_and_fetched(acme, node, files, tmp_path) -> None:
    async with busy(node):
        job_id = (await acme("submit", *files, "-o", "a.mp4", "--json")).data["job_id"]
    watched = await acme("jobs", "watch", job_id, "--json")
    assert [json.loads(line)["state"] for line in watched.out.splitlines()] == ["JOB_STATE_SUCCEEDED"]
    fetched = await acme("jobs", "fetch", job_id, "-o", tmp_path / "b.mp4")
    assert fetched.out.strip() == str(tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").read_bytes() == peers.MP4
    await acme("nodes", "drain", "n1")
    waiting = (await acme("submit", *files)).out.strip()
    assert (await acme("jobs", "cancel", waiting, "--json")).data["state"] == "JOB_STATE_CANCELLED"
    listed = (await acme("jobs", "list", "--json")).data
    assert [job["job_id"] for job in listed] == [waiting, job_id]
    cancelled = (await acme("jobs", "list", "--state", "cancelled")).out
    assert waiting in cancelled
    assert job_id not in cancelled
    shown = (await acme("jobs", "show", job_id)).out
    assert "attempt 1 on n1" in shown
    assert "tenant      acme\n" in shown
    assert "priority    0\n" in shown
    assert "fps 25, seed 0" in shown
    assert "sha256" in shown


async def test_nodes_are_listed_shown_drained_and_resumed(acme, node) -> None:
    assert [found["node_id"] for found in (await acme("nodes", "list", "--json")).data] == ["n1"]
    assert "n1" in (await acme("nodes", "list", "--region", "eu")).out
    assert "n1" not in (await acme("nodes", "list", "--region", "us")).out
    assert (await acme("nodes", "drain", "n1", "--json")).data["state"] == "NODE_STATE_DRAINING"
    assert "draining" in (await acme("nodes", "show", "n1")).out
    assert (await acme("nodes", "resume", "n1", "--json")).data["state"] == "NODE_STATE_READY"


async def test_the_reason_of_a_broken_slot_is_in_the_list_of_nodes(acme, node) -> None:
    slot = {"index": 0, "state": "SLOT_STATE_BACKOFF", "detail": "no room for its model"}
    node.say(heartbeat={"slots": [slot]})
    async with asyncio.timeout(60):
        while "0/1 busy; 0: no room for its model" not in (await acme("nodes", "list")).out:
            await asyncio.sleep(0.1)


async def test_no_tenant_sees_the_job_of_another(acme, files) -> None:
    job_id = (await acme("submit", *files)).out.strip()
    assert (await acme("jobs", "show", job_id)).code == 0
    assert (await acme("jobs", "show", job_id, "--tenant", "other")).code == 5
    assert (await acme("jobs", "list", "--json", "--tenant", "other")).data == []
    everything = (await acme("jobs", "list", "--json", "--tenant", "other", "--all-tenants")).data
    assert [(job["job_id"], job["tenant"]) for job in everything] == [(job_id, "acme")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("jobs", "show", "nobody"), 5, "nobody"),
        (("nodes", "show", "nobody"), 5, "nobody"),
        (("jobs", "list", "--hub", "127.0.0.1:9"), 4, "127.0.0.1:9"),
        (("jobs", "list", "--state", "runing"), 2, "running"),
        (("jobs", "list", "--tenant", "a b"), 3, "tenant is 'a b'"),
        (("jobs", "list", "--tenant", "ü"), 2, "tenant is 'ü'; use letters"),
        (("jobs", "list", "--hub", "nowhere"), 2, "hub is 'nowhere'; host:port"),
        (("render", "--portrait", "a", "--audio", "b", "-o", "x.mp4", "--fps", "abc"), 2, "10 to 60"),
        (("submit", "{portrait}", "{voice}", "--seed", "-1"), 3, "0 to 9223372036854775807\n"),
        (
            ("submit", "{portrait}", "{voice}", "--fps", "9", "--seed", "-1"),
            3,
            "a value from 10 to 60 frames per second\n",
        ),
        (("batch", "no.csv", "--preset", "no.toml"), 3, "the preset no.toml cannot be read: No such file"),
        (("submit", "no.jpg", "no.wav"), 3, "no.jpg"),
        (("submit", "{portrait}", "/dev/null/../null"), 3, "there is no file /dev/null"),
        (("submit", "{portrait}", "{empty}"), 3, "empty.wav is empty"),
        (("render", "--portrait", "{portrait}", "--audio", "{empty}", "-o", "x.mp4"), 3, "empty.wav is empty"),
        (("submit", "{portrait}", "{voice}", "--fps", "200"), 3, "fps is 200"),
        (("submit", "{voice}", "{portrait}"), 3, "the portrait"),
        (("submit", "{portrait}", "{voice}", "--priority", "99"), 3, "priority is"),
        (("submit", "{portrait}", "{voice}", "--deadline", "soon"), 2, "1h30m"),
        (("submit", "{portrait}", "{voice}", "--deadline", "9999999d"), 2, "9999999 days from now is after"),
        (("submit", "{portrait}", "{voice}", "--deadline", "0001-01-01T00:00:00+12:00"), 2, "1h30m"),
        (("submit", "{portrait}", ".", "--wait"), 3, ". is a folder"),
        (("submit", "{portrait}", "/", "--wait"), 3, "/ is a folder"),
        (("submit", "{portrait}", "{voice}", "--deadline", "2020-01-01T00:00:00Z"), 3, "deadline passed"),
        (("submit", "{portrait}", "{voice}", "--avoid-region", "a b"), 3, "regions.avoid is 'a b'"),
        (("batch", "no.csv", "--deadline", "10m"), 2, "for a batch, a time"),
        (("render", "--portrait", "no.jpg", "--audio", "no.wav", "-o", "x.mp4"), 3, "no.jpg"),
        (("batch", "no.csv"), 3, "no.csv"),
        (("models", "verify", "nothing"), 2, "face-mesh"),
        (("submit", "--colour", "blue"), 2, "--colour"),
        (("jobs", "list", "--config", "no.toml"), 2, "no.toml"),
        (("hub", "--listen", "nowhere"), 2, "listen is 'nowhere'"),
        (("hub", "--insecure", "--listen", "0.0.0.0:1"), 2, "leave --insecure out"),
        (("agent", "--hub", "hub.example:1", "--insecure"), 2, "leave --insecure out"),
        (("jobs", "list", "--hub", "hub.example:1"), 2, "set ca_file"),
        (("agent", "--slots", "0"), 2, "slots is 0"),
    ],
)
async def test_what_goes_wrong_has_an_exit_code_and_a_sentence(acme, files, tmp_path, arguments, code, said) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    given = [argument.format(portrait=files[0], voice=files[1], empty=empty) for argument in arguments]
    ended = await acme(*given)
    assert ended.code == code, ended.err
    assert said in ended.err
    assert ended.out == ""


async def test_the_hub_that_the_command_starts_can_be_used_and_stopped(sonic, home, tmp_path) -> None:
    log = tmp_path / "hub.log"
    command = [sys.executable, "-m", "sonic", "hub", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    command += ["--agent-listen", "127.0.0.1:0"]
    ca_file = tmp_path / "hub" / "authority" / "authority.pem"
    with process(command, log, **home, SONIC_HUB_DATA_DIR=str(tmp_path / "hub")) as program:
        serving = None
        while not serving:
            await asyncio.sleep(0.05)
            assert program.running
            assert program.running.poll() is None, log.read_text()
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            serving = next((line for line in lines if line["message"] == "serving"), None)
        assert serving["data_dir"] == str(tmp_path / "hub")
        at = ("--hub", serving["grpc"], "--ca-file", ca_file)
        nobody = await sonic("nodes", "list", *at)
        assert (nobody.code, "the call carries no credential" in nobody.err) == (6, True)
        at += ("--api-key-file", tmp_path / "hub" / "operator.key")
        assert (await sonic("nodes", "list", "--json", *at)).data == []
        stranger = await sonic("nodes", "list", "--hub", serving["grpc"])
        assert (stranger.code, "set ca_file to the authority.pem of this hub" in stranger.err) == (4, True)
        plain = await sonic("nodes", "list", "--hub", serving["grpc"], "--insecure")
        assert (plain.code, "speaks TLS, and insecure is set here" in plain.err) == (4, True)
        health = f"http://{serving['http']}/healthz"
        checked = await sonic("doctor", "--json", *at, "--health-url", health)
        states = {finding["name"]: finding["state"] for finding in checked.data}
        assert (states["hub"], states["clock"]) == ("warning", "ok")
        assert program.stop() == 0


async def test_several_problems_are_told_one_a_line_by_the_names_that_were_given(acme, files) -> None:
    ended = await acme("submit", *files, "--priority", 99, "--engine", "x" * 70)
    assert ended.err == (
        "error: engine has 70 characters; 64 is the limit\n       priority is 99; choose a value from -10 to 10\n"
    )


async def test_a_video_that_is_not_there_yet_is_not_fetched(acme, files) -> None:
    job_id = (await acme("submit", *files)).out.strip()
    ended = await acme("jobs", "fetch", job_id)
    assert (ended.code, ended.err) == (1, f"error: job {job_id} has not ended; wait for it first\n")


@pytest.mark.parametrize("command", ["show", "explain", "cancel", "watch", "fetch"])
async def test_an_empty_id_means_no_job_even_where_there_is_only_one(acme, files, command) -> None:
    job_id = (await acme("submit", *files)).out.strip()
    ended = await acme("jobs", command, "")
    assert (ended.code, "the id is empty" in ended.err) == (2, True)
    assert (await acme("jobs", "show", job_id, "--json")).data["state"] == "JOB_STATE_QUEUED"


async def test_a_job_may_be_named_by_the_beginning_of_its_id(acme, files) -> None:
    ids = [(await acme("submit", *files)).out.strip() for _ in range(17)]  # two of them begin with the same digit
    chosen = ids[3]
    shown = await acme("jobs", "show", chosen[:12], "--json")
    assert shown.data["job_id"] == chosen
    assert (await acme("jobs", "cancel", chosen[:12], "--json")).data["state"] == "JOB_STATE_CANCELLED"
    assert json.loads((await acme("jobs", "watch", chosen[:12], "--json")).out)["job_id"] == chosen
    assert chosen in (await acme("jobs", "fetch", chosen[:12])).err
    first = next(digit for digit in "0123456789abcdef" if sum(job_id.startswith(digit) for job_id in ids) > 1)
    several = await acme("jobs", "show", first, COLUMNS="400")
    assert several.code == 2
    assert all(job_id in several.err for job_id in [i for i in reversed(ids) if i.startswith(first)][:5])
    assert (await acme("jobs", "show", chosen[:12], "--tenant", "other")).code == 5
