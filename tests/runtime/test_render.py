"""A render, end to end: what comes out, and that nothing half-written ever stays."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from sonic import parameters
from sonic.v1 import parameters_pb2
from sonic_runtime import engines, errors
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import portraits, voices
from sonic_runtime.models.samples import Samples
from sonic_runtime.pipeline import Request, Tracker, render

from .sounds import record


def quick(**about: object) -> parameters_pb2.RenderParameters:
    return parameters_pb2.RenderParameters(**({"min_resolution": 256} | about))  # type: ignore[arg-type]


def rendered(samples: Samples, finder: FaceFinder, output: Path, voice: Path | None = None, **about: object):
    told = []
    tracker = Tracker(told.append, lambda: False)
    request = Request(samples.smile, voice or samples.voice, output, quick(**about))
    return render(request, engines.load("warp"), finder, tracker), told


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_video_is_what_was_asked_for(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    report, told = rendered(samples, finder, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height, video.average_rate) == (256, 256, 25)
        assert audio.codec_context.name == "aac"
        lengths = [float(stream.duration * stream.time_base) for stream in (video, audio)]
    assert abs(lengths[0] - lengths[1]) <= 1 / 25
    assert abs(lengths[1] - voices.load(samples.voice).duration_s) <= 1 / 25
    head = (tmp_path / "out.mp4").read_bytes()[:4096]
    assert head.index(b"moov") < 4096  # +faststart: players can begin before the end has arrived
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.9
    assert report.frames == len(frames_of(tmp_path / "out.mp4"))
    assert [stage.stage for stage in report.stages] == ["preparing", "rendering", "checking"]


def test_the_sound_is_the_recording_and_in_time(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    rendered(samples, finder, tmp_path / "out.mp4")
    before, after = voices.load(samples.voice).samples, voices.load(tmp_path / "out.mp4").samples
    length = min(len(before), len(after)) - 400
    alike = [np.corrcoef(before[200:length], after[200 + lag : length + lag])[0, 1] for lag in range(-160, 161, 8)]
    assert abs(np.argmax(alike) * 8 - 160) <= 16  # a millisecond
    assert max(alike) > 0.98


def test_the_mouth_moves_with_the_speech_and_rests_in_silence(
    samples: Samples, finder: FaceFinder, tmp_path: Path
) -> None:
    rendered(samples, finder, tmp_path / "out.mp4", min_resolution=512, motion_scale=0.0)
    opening = []
    for frame in frames_of(tmp_path / "out.mp4")[::3]:
        (face,) = finder.find(frame)
        points = face.landmarks[:, :2]
        opening.append(np.hypot(*(points[13] - points[14])) / np.hypot(*(points[33] - points[263])))
    heard = voices.load(samples.voice).samples
    loudness = [np.sqrt(np.mean(heard[int(i * 640) : int(i * 640) + 640] ** 2)) for i in range(0, len(opening) * 3, 3)]
    assert np.corrcoef(opening, loudness)[0, 1] > 0.35
    assert max(opening) > 0.09  # an open vowel would reach 0.2; "go forward ten meters" has none
    assert opening[0] < 0.04  # it begins in silence, with closed lips, although the portrait smiles with teeth


def test_same_seed_same_frames_other_seed_others(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        rendered(samples, finder, tmp_path / f"{name}.mp4", seed=seed)
        digests.append(hashlib.sha256(b"".join(f.tobytes() for f in frames_of(tmp_path / f"{name}.mp4"))).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_pixels_away_from_the_head_are_untouched(samples: Samples, finder: FaceFinder) -> None:
    wanted, _ = parameters.complete({"min_resolution": 512, "expand_ratio": 0.0})
    portrait, voice = portraits.load(samples.smile, finder), voices.load(samples.voice)
    engine = engines.load("warp")
    take = engine.prepare(engine.portray(portrait, wanted), voice, wanted)
    frames = [frame.copy() for frame in take.frames(lambda *_: None)]
    moved = np.ptp(np.stack([frame[:512] for frame in frames]), axis=0) > 0
    assert moved[60:200, 170:290].any()
    assert not moved[:, :60].any()
    assert not moved[400:].any()


@pytest.mark.parametrize(("ratio", "shape"), [(0.0, (256, 384)), (0.18, (256, 256))])
def test_framing_follows_expand_ratio(
    samples: Samples, finder: FaceFinder, tmp_path: Path, ratio: float, shape
) -> None:
    from PIL import Image

    wide = Image.open(samples.smile).convert("RGB").crop((0, 0, 512, 341))
    wide.save(tmp_path / "wide.png")
    cut = Samples(tmp_path / "wide.png", tmp_path / "wide.png", samples.voice)
    report, _ = rendered(cut, finder, tmp_path / "out.mp4", expand_ratio=ratio)
    assert (report.height, report.width) == shape


@pytest.mark.parametrize(("seconds", "fps"), [(0.12, 60), (0.53, 24), (1.019, 30), (2.7, 25)])
def test_odd_lengths_stay_within_a_frame(
    samples: Samples, finder: FaceFinder, tmp_path: Path, seconds: float, fps: int
) -> None:
    voice = record(tmp_path / "a.wav", seconds, rate=11_025, layout="mono")
    report, _ = rendered(samples, finder, tmp_path / "out.mp4", voice, fps=fps)
    assert abs(report.video_seconds - report.audio_seconds) <= 1 / fps
    assert len(frames_of(tmp_path / "out.mp4")) == report.frames


def test_a_wrong_duration_names_both_values(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    with pytest.raises(errors.DurationMismatch, match=r"duration is 9 s, the recording is 2\.786 s"):
        rendered(samples, finder, tmp_path / "out.mp4", duration=9.0)
    rendered(samples, finder, tmp_path / "out.mp4", duration=2.8)
    assert (tmp_path / "out.mp4").exists()


def test_bad_parameters_are_all_named(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    with pytest.raises(errors.BadParameters) as caught:
        rendered(samples, finder, tmp_path / "out.mp4", fps=999, min_resolution=100)
    assert [p.field for p in caught.value.problems] == ["parameters.min_resolution", "parameters.fps"]


def test_warnings_reach_the_report(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    report, _ = rendered(samples, finder, tmp_path / "out.mp4", inference_steps=12, dynamic_scale=1.5)
    reasons = [warning.reason for warning in report.warnings]
    assert reasons.count("OUTSIDE_RECOMMENDED_RANGE") == 3  # min_resolution, inference_steps, dynamic_scale
    assert {"SMALL_FACE", "PARAMETER_IGNORED"} <= set(reasons)


def test_cancelling_leaves_nothing(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    calls = iter(range(10**9))
    tracker = Tracker(lambda _progress: None, lambda: next(calls) > 20)
    request = Request(samples.smile, samples.voice, tmp_path / "out.mp4", quick())
    with pytest.raises(errors.Cancelled):
        render(request, engines.load("warp"), finder, tracker)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(samples: Samples, tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from sonic.v1 import parameters_pb2
from sonic_runtime import engines, errors
from sonic_runtime.faces import FaceFinder
from sonic_runtime.pipeline import Request, Tracker, render
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
request = Request(Path({str(samples.smile)!r}), Path({str(samples.voice)!r}), Path({str(tmp_path / "out.mp4")!r}),
    parameters_pb2.RenderParameters(min_resolution=512))
try:
    render(request, engines.load("warp"), FaceFinder(), Tracker(lambda p: None, lambda: False))
except errors.OutputUnwritable as error:
    print("said:", error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "said: The video could not be written: out.mp4: File too large" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_portraits_of_all_kinds_render(material: Path, finder: FaceFinder, tmp_path: Path) -> None:
    for portrait in sorted((material / "portraits").glob("*.*g")):
        voice = record(tmp_path / "a.wav", 0.4)
        report, _ = rendered(Samples(portrait, portrait, voice), finder, tmp_path / f"{portrait.stem}.mp4")
        assert report.frames == 10
        assert portraits.load(portrait, finder).face.confidence > 0.9
