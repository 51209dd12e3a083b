"""NVENC where it encodes, x264 where it does not: found out by a frame, never by the list of codecs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from sonic.exceptions import BadSettings
from sonic_runtime import errors
from sonic_runtime.engines.base import Shape
from sonic_runtime.media import encoders, videos
from sonic_runtime.models.samples import Samples

SHAPE = Shape(160, 96, 25, 70)
no_driver = pytest.mark.skipif(not encoders.trial(encoders.NVENC), reason="NVENC encodes here")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SONIC_ENCODER", raising=False)
    candidates = encoders.candidates
    candidates.cache_clear()
    yield
    candidates.cache_clear()


def record(output: Path, voice: Path) -> videos.Recorder:
    with videos.recording(output, SHAPE, voice) as recorder:
        for number in range(SHAPE.frame_count):
            recorder.add(np.full((SHAPE.height * 3 // 2, SHAPE.width), 3 * number, np.uint8))
    return recorder


def test_x264_encodes_wherever_this_is_installed() -> None:
    assert encoders.trial(encoders.X264) == ""


def test_an_encoder_that_is_not_there_is_found_out() -> None:
    assert encoders.trial(replace(encoders.X264, codec="no_such_codec"))
    assert encoders.trial(replace(encoders.X264, options={"preset": "no such preset"}))


@no_driver
def test_without_a_driver_nvenc_is_listed_but_not_taken() -> None:
    assert "h264_nvenc" in av.codecs_available
    assert "libcuda" in encoders.trial(encoders.NVENC)
    assert encoders.candidates() == (encoders.X264,)


def test_where_nvenc_encodes_x264_stands_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "trial", lambda _encoder: "")
    assert encoders.candidates() == (encoders.NVENC, encoders.X264)


def test_the_operator_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_ENCODER", "X264")
    monkeypatch.setattr(encoders, "trial", lambda _encoder: "")
    assert encoders.candidates() == (encoders.X264,)
    monkeypatch.setenv("SONIC_ENCODER", "nvenc")
    encoders.candidates.cache_clear()
    assert encoders.candidates() == (encoders.NVENC,)


@no_driver
def test_nvenc_that_is_asked_for_and_does_not_encode_is_an_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SONIC_ENCODER", "nvenc")
    with pytest.raises(errors.DeviceFailed, match=r"SONIC_ENCODER is nvenc.*libcuda.*set it to auto"):
        encoders.candidates()


def test_a_choice_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_ENCODER", "h265")
    with pytest.raises(BadSettings, match="'h265'; choose one of auto, x264, nvenc"):
        encoders.candidates()


def test_a_video_that_the_first_encoder_does_not_take_is_made_by_the_next(
    monkeypatch: pytest.MonkeyPatch, samples: Samples, tmp_path: Path
) -> None:
    """As NVENC does with a size beyond its own, or with one video too many at the same time."""
    choosy = replace(encoders.X264, options={"preset": "no such preset"})
    monkeypatch.setattr(encoders, "candidates", lambda: (choosy, encoders.X264))
    assert record(tmp_path / "out.mp4", samples.voice).encoder is encoders.X264
    videos.check(tmp_path / "out.mp4", SHAPE, 2.786)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_an_encoder_that_names_the_colours_itself_says_what_x264_is_told(
    monkeypatch: pytest.MonkeyPatch, samples: Samples, tmp_path: Path
) -> None:
    found = []
    for names_colours, options in ((False, encoders.X264.options), (True, {})):
        encoder = replace(encoders.X264, names_colours=names_colours, options=options)
        monkeypatch.setattr(encoders, "candidates", lambda encoder=encoder: (encoder,))
        record(tmp_path / "out.mp4", samples.voice)
        with av.open(str(tmp_path / "out.mp4")) as container:
            context = container.streams.video[0].codec_context
            found.append((context.color_range, context.color_primaries, context.color_trc, context.colorspace))
    assert found == [(1, 1, 1, 1)] * 2


def test_a_gpu_that_fails_while_it_encodes_is_to_blame_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, samples: Samples, tmp_path: Path
) -> None:
    gpu = replace(encoders.X264)
    monkeypatch.setattr(encoders, "NVENC", gpu)
    monkeypatch.setattr(encoders, "candidates", lambda: (gpu,))
    with (
        pytest.raises(errors.DeviceFailed, match="libx264"),
        videos.recording(tmp_path / "out.mp4", SHAPE, samples.voice),
    ):
        raise av.ExternalError(1, "generic error in an external library")
    assert not list(tmp_path.iterdir())
