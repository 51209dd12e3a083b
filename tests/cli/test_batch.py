"""A batch ends every good row, tells of every bad one, and can be run again and again."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.client.conftest import busy
from tests.hub import peers
from tests.processes import process


@pytest.fixture
def manifest(tmp_path, files):
    def write(*rows: str, name: str = "rows.csv", header: str = "portrait,voice,output,seed"):
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n" if name.endswith("csv") else "\n".join(rows))
        return path

    return write


async def test_every_row_becomes_a_video_and_a_rerun_skips_them(acme, node, manifest, tmp_path) -> None:
    path = manifest(*(f"face.jpg,voice.wav,out/{n}.mp4,{n}" for n in range(450)))
    async with busy(node) as rendered:
        first = await acme("batch", path, "--json")
        assert first.code == 0, first.err
        assert first.data["succeeded"] == first.data["rows"] == 450
        assert len(list((tmp_path / "out").glob("*.mp4"))) == 450
        (tmp_path / "out" / "7.mp4").unlink()
        (tmp_path / "out" / "8.mp4").write_bytes(b"spoilt")
        again = await acme("batch", path, "--json")
    assert (again.code, again.data["skipped"], again.data["succeeded"]) == (0, 448, 2)
    assert (tmp_path / "out" / "8.mp4").read_bytes() == peers.MP4
    assert len(rendered) == len(set(rendered)) == 450


async def test_a_cut_network_costs_no_row(acme, node, proxy, manifest) -> None:
    path = manifest(*(f"face.jpg,voice.wav,out/{n}.mp4,{n}" for n in range(120)))

    async def cut() -> None:
        while len(rendered) < 120:
            seen = len(rendered)
            while seen + 20 > len(rendered) < 120:
                await asyncio.sleep(0.01)
            proxy.cut()

    async with busy(node) as rendered:
        ended, _ = await asyncio.gather(
            acme("batch", path, "--json", "--hub", proxy.address, SONIC_PATIENCE_S="60"), cut()
        )
    assert proxy.cuts >= 3
    assert ended.code == 0, ended.err
    assert (ended.data["succeeded"], len(rendered)) == (120, 120)


async def test_a_batch_that_was_killed_goes_on_with_the_same_jobs(home, hub, acme, node, manifest, tmp_path) -> None:
    path = manifest(*(f"face.jpg,voice.wav,out/{n}.mp4,{n}" for n in range(300)))
    command = [sys.executable, "-m", "sonic", "batch", str(path)]
    async with busy(node) as rendered:
        with process(
            command, tmp_path / "log", **home, SONIC_HUB=hub.grpc_address, SONIC_TENANT="acme", SONIC_INSECURE="1"
        ) as program:
            while not list(tmp_path.glob("out/*.mp4")):
                await asyncio.sleep(0.01)
            program.kill()
        again = await acme("batch", path, "--json")
    assert again.code == 0
    assert again.data["skipped"] >= 1
    assert again.data["skipped"] + again.data["succeeded"] == 300
    assert len(rendered) == len(set(rendered)) == 300
    assert not list(tmp_path.glob("out/.*.part"))


async def test_bad_rows_are_named_and_the_others_go_on(acme, node, manifest) -> None:
    rows = ["face.jpg,voice.wav,a.mp4,1", "none.jpg,voice.wav,b.mp4,2", "face.jpg,voice.wav,c.mp4,x"]
    path = manifest(*rows, "face.jpg,voice.wav,a.mp4,9", "voice.wav,voice.wav,d.mp4,5")
    async with busy(node):
        ended = await acme("batch", path)
    assert ended.code == 1
    assert ended.out == "5 rows: 1 rendered, 0 skipped (already there), 4 without a video\n"
    for said in (
        "rows.csv:3: portrait is 'none.jpg'",
        "rows.csv:4: seed is 'x'",
        "rows.csv:5: output",
        "rows.csv:6: portrait is",
    ):
        assert said in ended.err


async def test_what_no_file_or_job_can_be_called_spoils_its_row_alone(acme, node, manifest, tmp_path) -> None:
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    bad: list[dict[str, object]] = [
        {"output": "x" * 300 + ".mp4"},
        {"output": "x" * 300 + "/a.mp4"},
        {"output": "loop.mp4"},
        {"output": "none/../loop.mp4"},
        {"output": "\ud800.mp4"},
        {"engine": "\ud800"},
        {"require_regions": ["\ud800"]},
        {"deadline": "0001-01-01T00:00:00+12:00"},
        {"\ud800": 1},
        {"portrait": "\ud800"},
    ]
    inputs = {"portrait": "face.jpg", "voice": "voice.wav"}
    path = manifest(*(json.dumps(inputs | row) for row in (*bad, {"output": "good.mp4"})), name="rows.jsonl")
    async with busy(node):
        ended = await acme("batch", path, "--json")
    assert (ended.code, ended.data["succeeded"]) == (1, 1), ended.err
    told = [(failure["line"], failure["field"]) for failure in ended.data["failures"]]
    assert told == [(line, *row) for line, row in enumerate(bad, 1)]
    assert "whose name has 304 bytes; 232 is the limit" in ended.err
    assert "'loop.mp4', which cannot be written" in ended.err.replace(f"{tmp_path}/", "")
    assert (tmp_path / "good.mp4").read_bytes() == peers.MP4


async def test_long_names_of_inputs_make_a_name_that_a_video_can_have(acme, node, manifest, files, tmp_path) -> None:
    for file, name in zip(files, ("ü" * 120 + ".jpg", "v" * 240 + ".wav"), strict=True):
        file.rename(tmp_path / name)
    path = manifest(f"{'ü' * 120}.jpg,{'v' * 240}.wav,,1")
    async with busy(node):
        assert (await acme("batch", path)).code == 0
        assert (await acme("batch", path, "--json")).data["skipped"] == 1
    (video,) = (tmp_path / "rows-videos").iterdir()
    assert video.name.startswith("ü" * 50)
    assert "-" + "v" * 50 in video.name


async def test_a_rerun_tries_again_what_failed_by_no_fault_of_the_row(acme, node, manifest) -> None:
    path = manifest("face.jpg,voice.wav,a.mp4,1")

    async def cancel_first() -> None:
        ref = (await node.hear("assignment")).assignment.ref
        await acme("jobs", "cancel", ref.job_id)
        await node.hear("cancel")
        node.say(result={"ref": ref, "stopped": {}})
        await node.hear("result_ack")

    first, _ = await asyncio.gather(acme("batch", path, "--json"), cancel_first())
    assert first.code == 1
    assert "cancelled" in first.data["failures"][0]["message"]
    assert first.data["failures"][0]["line"] == 2
    async with busy(node) as rendered:
        second = await acme("batch", path, "--json")
    assert (second.code, second.data["succeeded"], len(rendered)) == (0, 1, 1)


async def test_a_failed_row_is_told_in_one_plain_sentence(acme, node, manifest) -> None:
    waiting = asyncio.create_task(acme("batch", manifest("face.jpg,voice.wav,a.mp4,1")))
    ref = (await node.hear("assignment")).assignment.ref
    node.say(result={"ref": ref, "failure": {"fault": 1, "reason": "NO_FACE", "message": "No face was found."}})
    ended = await waiting
    assert f"rows.csv:2: job {ref.job_id} failed: No face was found. (NO_FACE)\n" in ended.err
    assert ended.out == "1 row: 0 rendered, 0 skipped (already there), 1 without a video\n"


async def test_a_row_wins_over_a_flag_and_a_flag_over_the_preset(acme, node, manifest, tmp_path) -> None:
    preset = tmp_path / "preset.toml"
    preset.write_text("seed = 1\nfps = 30\nmotion_scale = 0.5\n")
    path = manifest("face.jpg,voice.wav,a.mp4,3")
    async with busy(node):
        ended = await acme("batch", path, "--preset", preset, "--fps", 24, "--seed", 2)
    assert ended.code == 0
    (job,) = (await acme("jobs", "list", "--json")).data
    chosen = job["spec"]["parameters"]
    assert (chosen["seed"], chosen["fps"], chosen["motion_scale"]) == ("3", 24, 0.5)


async def test_jsonl_works_too_and_rows_without_output_find_a_name(acme, node, manifest, tmp_path) -> None:
    path = manifest('{"portrait": "face.jpg", "audio": "voice.wav", "fps": 25}', "{broken", name="rows.jsonl")
    async with busy(node):
        ended = await acme("batch", path, "--json")
    assert (ended.code, ended.data["succeeded"], ended.data["failures"][0]["line"]) == (1, 1, 2)
    (video,) = (tmp_path / "rows-videos").iterdir()
    assert video.name.startswith("face-voice-")


async def test_no_video_takes_the_place_of_an_input(acme, node, manifest, tmp_path, files) -> None:
    for name in ("mine.mp4", "later.mp4"):
        (tmp_path / name).write_bytes(files[1].read_bytes())
    rows = ["face.jpg,mine.mp4,mine.mp4,1", "face.jpg,voice.wav,out/../later.mp4,2", "face.jpg,later.mp4,fine.mp4,3"]
    async with busy(node):
        ended = await acme("batch", manifest(*rows), "--json")
    assert (ended.code, ended.data["succeeded"]) == (1, 1)
    assert [(failure["line"], failure["field"]) for failure in ended.data["failures"]] == [(2, "output"), (3, "output")]
    assert "which is an input" in ended.err
    for name in ("mine.mp4", "later.mp4"):
        assert (tmp_path / name).read_bytes() == files[1].read_bytes()


async def test_a_video_that_could_not_be_written_is_never_rendered(acme, node, manifest, tmp_path) -> None:
    (tmp_path / "file").touch()
    async with busy(node) as rendered:
        ended = await acme("batch", manifest("face.jpg,voice.wav,file/a.mp4,1"))
    assert ended.code == 1
    assert f"the folder {tmp_path / 'file'} cannot be written" in ended.err
    assert rendered == []


async def test_a_batch_says_how_much_there_is_before_the_first_video(acme, home, hub, manifest) -> None:
    path = manifest(*(f"face.jpg,voice.wav,{n}.mp4,{n}" for n in range(3)))
    batch = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sonic", "batch", str(path), "--insecure", "--hub", hub.grpc_address),
        stderr=asyncio.subprocess.PIPE,
        env=home,
    )
    assert batch.stderr
    async with asyncio.timeout(60):
        assert await batch.stderr.readline() == b"rows.csv   0% 0 of 3, 0 failed\n"
    batch.terminate()
    assert await batch.wait() == 130


async def test_rows_name_regions_and_deadlines_and_a_rerun_asks_for_the_same_jobs(acme, node, manifest) -> None:
    header = "portrait,voice,output,prefer_regions,deadline"
    deadline = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = (f"face.jpg,voice.wav,1.mp4,eu us,{deadline}", "face.jpg,voice.wav,2.mp4,,")
    path = manifest(*rows, header=header)
    async with busy(node) as rendered:
        for _ in range(2):
            ended = await acme("batch", path, "--avoid-region", "ap", "--json")
            assert ended.code == 0, ended.err
    assert len(rendered) == 2
    specs = [job["spec"] for job in (await acme("jobs", "list", "--json")).data]
    assert sorted(spec["regions"]["prefer"] for spec in specs) == [[], ["eu", "us"]]
    assert [spec["regions"]["avoid"] for spec in specs] == [["ap"], ["ap"]]
    assert sorted(spec.get("deadline", "") for spec in specs) == ["", deadline]
