"""A video without a hub, and the whole fleet in one command."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest

from tests.servers import binary

SMALL = ("--min-resolution", "256")


def left_behind(folder: Path) -> list[str]:
    """Programs that still run with `folder` in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}".encode() in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def own(home, tmp_path) -> dict[str, str]:
    """An environment by which what was started can be found again; the models are those of the machine."""
    from sonic_runtime import models

    (tmp_path / "tmp").mkdir()
    return home | {"TMPDIR": str(tmp_path / "tmp"), "SONIC_MODELS": str(models.root())}


async def test_render_writes_the_video_and_reports_it(sonic, own, samples, finder, tmp_path) -> None:
    given = ("--portrait", samples.smile, "--audio", samples.voice, "-o", "out/video.mp4", "--fps", 24, *SMALL)
    ended = await sonic("render", *given, "--json", **own)
    assert ended.code == 0, ended.err
    report = ended.data
    assert (report["output"], report["fps"], report["engine"]) == ("out/video.mp4", 24, "warp")
    assert min(report["width"], report["height"]) == 256
    assert {stage["stage"] for stage in report["stages"]} == {"preparing", "rendering", "checking"}
    with av.open(tmp_path / "out" / "video.mp4") as video:
        assert video.streams.video[0].frames == int(report["frames"])
    assert "render 100% done" in ended.err
    assert "256; 512 to 1024 is recommended" in ended.err


async def test_a_picture_without_a_face_is_bad_input(sonic, own, samples, finder, tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (640, 640), "white").save(tmp_path / "wall.png")
    ended = await sonic("render", "--portrait", "wall.png", "--audio", samples.voice, "-o", "x.mp4", **own)
    assert ended.code == 3
    assert "No face was found" in ended.err
    assert not (tmp_path / "x.mp4").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_render_that_is_stopped_leaves_nothing(own, samples, finder, tmp_path, number) -> None:
    given = ("render", "--portrait", samples.smile, "--audio", samples.voice, "-o", tmp_path / "out" / "video.mp4")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sonic", *map(str, given)), stderr=asyncio.subprocess.PIPE, env=own
    )
    assert process.stderr
    while b"rendering" not in (line := await process.stderr.readline()):
        assert line, "it ended before it was stopped"
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"was not written" in err
    assert b"Traceback" not in err
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_model_that_is_missing_is_said_with_the_way_to_get_it(sonic, own, samples, tmp_path) -> None:
    empty = own | {"SONIC_MODELS": str(tmp_path / "models")}
    given = ("render", "--portrait", samples.smile, "--audio", samples.voice, "-o", "x.mp4")
    ended = await sonic(*given, **empty)
    assert ended.code == 7
    assert "sonic models fetch face-mesh" in ended.err


@pytest.mark.integration
async def test_the_demo_leaves_a_video_and_nothing_else(sonic, own, samples, finder, tmp_path) -> None:
    given = ("--portrait", samples.smile, "--audio", samples.voice, "--out", "out/demo.mp4")
    with_prometheus = own | {"PATH": f"{binary('prometheus').parent}:{own['PATH']}"}
    ended = await sonic("demo", *given, "--json", **with_prometheus)
    assert ended.code == 0, ended.err
    assert ended.data["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert ended.data["seconds"].keys() >= {"start of the hub", "start of the agents", "render", "download"}
    renders, pace, jobs = (answer["series"] for answer in ended.data["metrics"])
    node = {"region": "demo", "node_id": ended.data["job"]["attempts"][-1]["node_id"], "model_version": "warp-2"}
    assert renders == [{"labels": node, "value": 1}]
    assert [one["labels"] for one in pace] == [node | {"tenant": "demo"}]
    assert jobs == [{"labels": {"tenant": "demo", "state": "succeeded"}, "value": 1}]
    with av.open(tmp_path / "out" / "demo.mp4") as video:
        assert [stream.type for stream in video.streams] == ["video", "audio"]
    assert left_behind(tmp_path / "tmp") == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.integration
async def test_a_demo_without_prometheus_says_how_to_have_one(sonic, own, samples, finder, tmp_path) -> None:
    (tmp_path / "no-programs").mkdir()
    ended = await sonic("demo", **own | {"PATH": str(tmp_path / "no-programs")})
    assert ended.code == 0, ended.err
    assert "apt-get install prometheus" in ended.err
    assert (tmp_path / "out" / "demo.mp4").exists()


@contextlib.asynccontextmanager
async def demo_at(step: str, own, samples, tmp_path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A demo with much to render that has come to a step."""
    long = tmp_path / "long.wav"
    with wave.open(str(samples.voice)) as once, wave.open(str(long), "wb") as often:
        often.setparams(once.getparams())
        often.writeframes(once.readframes(once.getnframes()) * 40)
    command = [sys.executable, "-m", "sonic", "demo", "--portrait", samples.smile, "--audio", long]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=own, cwd=tmp_path
    )
    try:
        await until_said(process, step)
        assert left_behind(tmp_path / "tmp")
        yield process
    finally:
        if process.returncode is None:
            process.kill()


async def until_said(process: asyncio.subprocess.Process, what: str) -> None:
    assert process.stderr
    while what not in (line := (await process.stderr.readline()).decode()):
        assert line, f"it ended before it said {what!r}"


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", ["waiting for 2 agents", "rendering"])
async def test_a_demo_that_is_stopped_says_so_at_once_and_leaves_nothing(
    own, samples, finder, tmp_path, number, at
) -> None:
    async with demo_at(at, own, samples, tmp_path) as process:
        process.send_signal(number)
        async with asyncio.timeout(60):
            await until_said(process, "stopping the hub and the agents")
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert out == b""
    assert left_behind(tmp_path / "tmp") == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("at", ["waiting for 2 agents", "rendering"])
async def test_a_demo_that_is_stopped_twice_ends_at_once_and_leaves_nothing(own, samples, finder, tmp_path, at) -> None:
    async with demo_at(at, own, samples, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        await until_said(process, "stopping the hub and the agents")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            await until_said(process, "error: stopped, and everything that was started with it")
        assert len(left_behind(tmp_path / "tmp")) <= 1  # itself
        await process.wait()
    assert process.returncode == 130
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("at", ["waiting for 2 agents", "rendering"])
async def test_a_demo_that_is_killed_leaves_no_process(own, samples, finder, tmp_path, at) -> None:
    async with demo_at(at, own, samples, tmp_path) as process:
        process.kill()
        await process.wait()
        async with asyncio.timeout(60):
            while left_behind(tmp_path / "tmp"):
                await asyncio.sleep(0.05)


@pytest.mark.integration
async def test_a_demo_looks_at_what_it_is_given_before_it_starts_anything(
    sonic, own, samples, finder, tmp_path
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "voice.mp4").write_bytes(samples.voice.read_bytes())
    for portrait, audio, out, said in (
        (samples.voice, samples.voice, "o.mp4", "The portrait is not a picture that can be read"),
        (samples.smile, samples.smile, "o.mp4", "The voice recording is not audio"),
        ("none.jpg", samples.voice, "o.mp4", "there is no file none.jpg"),
        (samples.smile, "empty.wav", "o.mp4", "empty.wav is empty"),
        (samples.smile, "voice.mp4", "voice.mp4", "which is an input"),
        (samples.smile, samples.voice, "empty.wav/o.mp4", f"the folder {tmp_path / 'empty.wav'} cannot be written"),
    ):
        ended = await sonic("demo", "--portrait", portrait, "--audio", audio, "--out", out, **own)
        assert ended.code == 3
        assert said in ended.err
        assert "hub at" not in ended.err


async def test_a_gif_is_called_one(sonic, own, samples, finder, tmp_path) -> None:
    from PIL import Image

    first = Image.open(samples.smile).convert("P")
    first.save(tmp_path / "wave.gif", save_all=True, append_images=[first.rotate(5)])
    ended = await sonic("render", "--portrait", "wave.gif", "--audio", samples.voice, "-o", "x.mp4", **own)
    assert ended.code == 3
    assert "it is a GIF; send one of its frames as JPEG or PNG" in ended.err


@pytest.mark.timeout(400)
async def test_a_long_render_that_was_stopped_goes_on(
    sonic, own, samples, finder, tiny_sonic, short_voice, tmp_path
) -> None:
    own |= {"SONIC_ENGINE_OPTIONS": "window_frames=4,device=cpu", "SONIC_MODEL_VERSION": tiny_sonic}
    given = ["render", "--engine", "sonic", "--portrait", samples.smile, "--audio", short_voice, *SMALL]
    given += ["-o", tmp_path / "video.mp4", "--inference-steps", 3, "--no-lip-sync-correction"]
    eager = "from sonic_runtime.engines.sonic import resuming; resuming.INTERVAL_S = 0.0; "
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{eager}from sonic.cli import main; main()", *map(str, given)),
        stderr=asyncio.subprocess.PIPE,
        env=own,
    )
    state = tmp_path / ".video.mp4.state"
    while not state.exists():
        assert process.returncode is None
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"the same command goes on where it was" in err
    ended = await sonic(*given, "--json", **own)
    assert ended.code == 0, ended.err
    assert int(ended.data["resumed_from"]) > 0
    assert (tmp_path / "video.mp4").exists()
    assert not state.exists()
