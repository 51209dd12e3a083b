from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agent.core.attempts import Failure, Fault, Ref, Rendered, Stopped
from agent.outbox import Outbox
from sonic.v1 import jobs_pb2

REF = Ref("job", 1)
REPORT = jobs_pb2.RenderReport(frames=12)
RENDERED = Rendered(REPORT.SerializeToString(), 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outbox").mkdir()
    return tmp_path / "outbox"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"frames")
    return path


def test_a_result_and_its_video_are_there_for_the_next_life(folder: Path, video: Path):
    Outbox(folder).put(REF, RENDERED, video)
    later = Outbox(folder)
    assert later.load() == [REF]
    told = later.result(REF).video
    assert (told.video.sha256, told.video.size_bytes) == (hashlib.sha256(b"frames").hexdigest(), 6)
    assert told.report == REPORT
    assert later.video(REF).read_bytes() == b"frames"


def test_every_kind_of_outcome_survives(folder: Path, video: Path):
    failure = Failure(Fault.BAD_INPUT, "NO_FACE", "no face", (("portrait", "has no face"),))
    Outbox(folder).put(REF, failure, video)
    Outbox(folder).put(Ref("job", 2), Stopped(), video)
    later = Outbox(folder)
    assert later.load() == [REF, Ref("job", 2)]
    assert later.result(REF).failure.problems[0].field == "portrait"
    assert later.result(Ref("job", 2)).HasField("stopped")


def test_a_result_in_place_of_another_takes_the_video_away(folder: Path, video: Path):
    outbox = Outbox(folder)
    outbox.put(REF, RENDERED, video)
    outbox.put(REF, Stopped(), video)
    later = Outbox(folder)
    later.load()
    assert later.result(REF).HasField("stopped")
    assert not later.video(REF).exists()


def test_what_was_half_written_is_no_result_and_is_removed(folder: Path):
    (folder / ".job-1").mkdir()
    (folder / ".job-1/video.mp4").write_bytes(b"fra")
    assert Outbox(folder).load() == []
    assert not any(folder.iterdir())


def test_a_result_that_cannot_be_read_hides_no_other(folder: Path, video: Path):
    Outbox(folder).put(REF, RENDERED, video)
    (folder / "broken-1").mkdir()
    (folder / "broken-1/result.pb").write_bytes(b"\xff\xff")
    (folder / "broken-1/video.mp4").write_bytes(b"somebody's face")
    assert Outbox(folder).load() == [REF]
    assert not (folder / "broken-1").exists(), "nobody would ever fetch that video"


def test_what_is_forgotten_is_gone(folder: Path, video: Path):
    outbox = Outbox(folder)
    outbox.put(REF, RENDERED, video)
    outbox.forget(REF)
    assert Outbox(folder).load() == []


def test_a_failure_can_be_reported_even_when_the_disk_takes_nothing(folder: Path, video: Path):
    outbox = Outbox(folder)
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        outbox.put(REF, Stopped(), video)
    assert outbox.result(REF).HasField("stopped")


@pytest.mark.parametrize("job_id", ["../../escape", "..", "a/b", "ä b"])
def test_no_job_id_leads_out_of_the_folder(folder: Path, video: Path, job_id: str):
    Outbox(folder).put(Ref(job_id, 1), RENDERED, video)
    (inside,) = folder.iterdir()
    assert inside.parent == folder
    assert Outbox(folder).load() == [Ref(job_id, 1)]
