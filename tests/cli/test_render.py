"""A video without a hub, and the whole fleet in one command."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import av
import pytest

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
    assert "100%" in ended.err or "checking" in ended.err
    assert "256; 512 to 1024 is recommended" in ended.err


async def test_a_picture_without_a_face_is_bad_input(sonic, own, samples, finder, tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (640, 640), "white").save(tmp_path / "wall.png")
    ended = await sonic("render", "--portrait", "wall.png", "--audio", samples.voice, "-o", "x.mp4", **own)
    assert ended.code == 3
    assert "No face was found" in ended.err
    assert not (tmp_path / "x.mp4").exists()


async def test_a_render_that_is_stopped_leaves_nothing(own, samples, finder, tmp_path) -> None:
    given = ("render", "--portrait", samples.smile, "--audio", samples.voice, "-o", tmp_path / "out" / "video.mp4")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sonic", *map(str, given)), stderr=asyncio.subprocess.PIPE, env=own
    )
    assert process.stderr
    while b"rendering" not in (line := await process.stderr.readline()):
        assert line, "it ended before it was stopped"
    process.send_signal(signal.SIGINT)
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
    ended = await sonic("demo", *given, "--json", **own)
    assert ended.code == 0, ended.err
    assert ended.data["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert ended.data["seconds"].keys() >= {"start of the hub", "start of the agents", "render", "download"}
    with av.open(tmp_path / "out" / "demo.mp4") as video:
        assert [stream.type for stream in video.streams] == ["video", "audio"]
    assert left_behind(tmp_path / "tmp") == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", ["waiting for 2 agents", "rendering"])
async def test_a_demo_that_is_stopped_leaves_nothing(own, samples, finder, tmp_path, number, at) -> None:
    command = [sys.executable, "-m", "sonic", "demo", "--portrait", samples.smile, "--audio", samples.voice]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=own, cwd=tmp_path
    )
    assert process.stderr
    while at not in (line := (await process.stderr.readline()).decode()):
        assert line, "the demo ended before it was stopped"
    assert left_behind(tmp_path / "tmp")
    process.send_signal(number)
    out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert out == b""
    assert left_behind(tmp_path / "tmp") == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.integration
async def test_a_demo_with_bad_input_says_so_and_leaves_nothing(sonic, own, samples, finder, tmp_path) -> None:
    ended = await sonic("demo", "--portrait", samples.voice, "--audio", samples.voice, **own)
    assert ended.code == 3
    assert "portrait" in ended.err
    assert left_behind(tmp_path / "tmp") == []
