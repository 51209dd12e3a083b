"""The diffusion engine as callers meet it, with tiny networks of random weights: it shows noise, but does all of it."""

from __future__ import annotations

import shutil
import tracemalloc
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sonic.parameters import ENGINE_DEFAULTS, RenderParameters
from sonic_runtime import engines, errors
from sonic_runtime.engines.base import Face, Portrait, Shape, Voice
from sonic_runtime.engines.sonic import SonicEngine, audio, images, options
from sonic_runtime.engines.sonic.engine import SonicTake, frames_made, on_device
from sonic_runtime.engines.sonic.lips import LipReader
from sonic_runtime.engines.sonic.options import Options
from sonic_runtime.engines.sonic.pipeline import Sampling
from sonic_runtime.engines.warp import WarpEngine
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import portraits, voices
from sonic_runtime.models import folder as model_folder
from sonic_runtime.models import tiny
from sonic_runtime.models.samples import Samples

from .conftest import SMALL

WANTED = RenderParameters(
    **{**ENGINE_DEFAULTS["sonic"], "min_resolution": 128, "inference_steps": 1, "lip_sync_correction": False}
)


@pytest.fixture(scope="session")
def portrait() -> Portrait:
    rgb = np.random.default_rng(1).integers(0, 255, (160, 128, 3), np.uint8)
    return Portrait(rgb, Face(np.zeros((478, 3), np.float32), (40.0, 50.0, 90.0, 110.0), 1.0, 0, 0, 0))


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    return recorded(tmp_path_factory.mktemp("voices") / "voice.wav", 0.5)


@pytest.fixture(scope="session")
def plain(engine: SonicEngine, portrait: Portrait, voice: Voice) -> NDArray[np.uint8]:
    """The frames of WANTED."""
    return rendered(engine.prepare(engine.portray(portrait, WANTED), voice, WANTED))


def recorded(path: Path, seconds: float) -> Voice:
    noise = np.random.default_rng(2).normal(0, 3000, int(seconds * 16_000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, len(noise), "NONE", ""))
        file.writeframes(noise.tobytes())
    return voices.load(path)


def rendered(take: SonicTake) -> NDArray[np.uint8]:
    return np.stack([frame.copy() for frame in take.frames(lambda _stage, _done, _total: None)])


@pytest.mark.parametrize(("fps", "smooth"), [(25, True), (25, False), (10, True), (30, True)])
def test_the_video_is_as_long_as_the_voice(
    engine: SonicEngine, portrait: Portrait, voice: Voice, fps: int, smooth: bool
) -> None:
    wanted = replace(WANTED, fps=fps, smooth_motion=smooth)
    take = engine.prepare(engine.portray(portrait, wanted), voice, wanted)
    assert take.shape == Shape(128, 128, fps, round(0.5 * fps + 0.01))
    frames = rendered(take)
    assert frames.shape == (take.shape.frame_count, 192, 128)
    assert frames.std() > 1
    assert [caution.reason for caution in take.cautions] == (["FRAMES_REPEATED"] if fps == 30 or not smooth else [])


def test_the_same_seed_gives_the_same_frames_and_another_one_others(
    engine: SonicEngine, portrait: Portrait, voice: Voice, plain: NDArray[np.uint8]
) -> None:
    def of(seed: int) -> NDArray[np.uint8]:
        wanted = replace(WANTED, seed=seed)
        return rendered(engine.prepare(engine.portray(portrait, wanted), voice, wanted))

    assert np.array_equal(plain, of(0))
    assert not np.array_equal(plain, of(72589))


@pytest.mark.parametrize(
    "change",
    [
        {"dynamic_scale": 1.5},
        {"motion_scale": 1.5},
        {"audio_guidance": 4.0},
        {"appearance_guidance": 1.0},
        {"audio_scale": 0.5},
        {"inference_steps": 2},
    ],
    ids=str,
)
def test_every_parameter_has_an_effect(
    engine: SonicEngine, portrait: Portrait, voice: Voice, plain: NDArray[np.uint8], change: dict[str, float]
) -> None:
    changed = rendered(engine.prepare(engine.portray(portrait, WANTED), voice, replace(WANTED, **change)))
    assert not np.array_equal(plain, changed)


def test_the_scales_of_motion_are_the_references(engine: SonicEngine, portrait: Portrait, voice: Voice) -> None:
    wanted = replace(WANTED, dynamic_scale=1.2, motion_scale=1.5)
    sampling = engine.prepare(engine.portray(portrait, wanted), voice, wanted).sampling()
    assert sampling.head_scale == 1.2
    assert sampling.expression_scale == pytest.approx(1.8)


def test_no_crop_keeps_the_whole_picture(engine: SonicEngine, portrait: Portrait) -> None:
    assert engine.portray(portrait, WANTED).size == (128, 128)
    tall = replace(portrait, rgb=np.repeat(portrait.rgb, 2, axis=0))
    assert engine.portray(tall, replace(WANTED, expand_ratio=0.0)).size == (128, 320)


def test_a_picture_that_is_too_long_for_a_video_is_refused(engine: SonicEngine, portrait: Portrait) -> None:
    long = replace(portrait, rgb=np.zeros((128, 20_000, 3), np.uint8))
    with pytest.raises(errors.BadParameters, match="19968 x 128 pixels, 4096 on each side are allowed"):
        engine.portray(long, replace(WANTED, expand_ratio=0.0))


class Finding(torch.nn.Module):
    """Finds three faces wherever it looks: one, a larger one, and one between them."""

    def forward(self, seen: torch.Tensor, grids: list[torch.Tensor]) -> torch.Tensor:
        found = torch.zeros(1, 3, 16)
        for number, side in enumerate((40.0, 120.0, 80.0)):
            found[0, number, 0], found[0, number, 1] = 70.0 + 140.0 * number, 100.0
            found[0, number, 2], found[0, number, 3] = side, side
            found[0, number, 4], found[0, number, 15] = 0.99 - 0.01 * number, 1.0
        return found


def test_the_references_choice_of_face_is_to_be_had(folder: Path, portrait: Portrait, tmp_path: Path) -> None:
    model = shutil.copytree(folder, tmp_path / "sonic-tiny")
    torch.jit.script(Finding()).save(str(model / "yoloface_v5m.pt"))
    engine = SonicEngine(model, replace(SMALL, face_detector="reference"))
    mask = engine.portray(portrait, replace(WANTED, expand_ratio=0.0)).pictures.mask[0, 0]
    columns = mask.amax(0).nonzero().flatten()
    centre = (columns[0] + columns[-1]).item() / 2
    assert centre == pytest.approx(350 * 128 / 416, abs=3)  # the last that is larger than the first, not the largest


def test_a_detector_that_is_none_is_named(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder, tmp_path / "sonic-tiny")
    (model / "yoloface_v5m.pt").write_bytes(b"no network")
    with pytest.raises(errors.ModelBroken, match="yoloface_v5m"):
        SonicEngine(model, replace(SMALL, face_detector="reference"))


def test_denoising_is_told_call_by_call_and_stops_when_it_must(
    engine: SonicEngine, portrait: Portrait, voice: Voice
) -> None:
    told: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage == "denoising" and done == 2:
            raise errors.Cancelled

    wanted = replace(WANTED, inference_steps=3)
    take = engine.prepare(engine.portray(portrait, wanted), voice, wanted)
    with pytest.raises(errors.Cancelled):
        next(take.frames(report))
    assert [each for each in told if each[0] == "denoising"] == [("denoising", done, 6) for done in range(3)]


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_a_recording_is_heard_as_the_mean_of_its_channels(tmp_path: Path, channels: int) -> None:
    noise = np.random.default_rng(3).normal(0, 3000, (8_000, channels)).astype("<i2")
    with wave.open(str(tmp_path / "many.wav"), "wb") as file:
        file.setparams((channels, 2, 16_000, len(noise), "NONE", ""))
        file.writeframes(noise.tobytes())
    assert audio.load(tmp_path / "many.wav") == pytest.approx(noise.mean(axis=1) / 32768, abs=1e-6)


def test_a_recording_of_many_channels_takes_the_memory_of_one(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "many.wav"), "wb") as file:
        file.setparams((6, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 6 * 16_000 * 30))
    tracemalloc.start()
    samples = audio.load(tmp_path / "many.wav")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * samples.nbytes


@pytest.mark.parametrize("seconds", [12, 31, 64.3])
def test_a_long_voice_is_heard_to_its_end_and_whole(engine: SonicEngine, tmp_path: Path, seconds: float) -> None:
    samples = audio.load(recorded(tmp_path / "long.wav", seconds).path)
    speech = engine.networks.speech
    whole, broken = speech.hear(samples), speech.hear(samples, overlapping=False)
    assert len(whole) == len(broken) == int(seconds * 25) * 2
    different = (whole - broken).abs().amax((1, 2)) > 1e-3
    assert different.any() == (seconds > 30)
    assert not different[: 25 * 50].any()  # what is 5 s from a border is heard alike


def test_what_is_heard_later_is_shifted() -> None:
    hidden = torch.arange(1.0, 11).reshape(10, 1, 1)
    assert audio.shifted(hidden, 0.04).flatten().tolist() == [*range(3, 11)]
    assert audio.shifted(hidden, -0.04).flatten().tolist() == [0, 0, *range(1, 11)]


class Off:
    """Lips that are off by so much, once."""

    def __init__(self, late_s: float) -> None:
        self.late_s = late_s
        self.looks = 0

    def lateness_s(self, frames: object, rate_hz: float, voice: Voice) -> float:
        self.looks += 1
        return self.late_s


@pytest.mark.parametrize(("late_s", "again"), [(0.0, False), (0.03, False), (0.09, True), (-0.1, True)])
def test_lips_that_are_off_by_more_than_a_frame_are_rendered_again(
    folder: Path, portrait: Portrait, voice: Voice, plain: NDArray[np.uint8], late_s: float, again: bool
) -> None:
    engine = SonicEngine(folder, SMALL)
    engine.lips = Off(late_s)  # type: ignore[assignment]
    take = engine.prepare(engine.portray(portrait, WANTED), voice, replace(WANTED, lip_sync_correction=True))
    corrected = rendered(take)
    assert [caution.reason for caution in take.cautions] == ["LIP_SYNC_CORRECTED"] * again
    assert np.array_equal(plain, corrected) == (not again)
    assert engine.lips.looks == 1  # type: ignore[attr-defined]


def test_a_mouth_that_is_late_is_seen_to_be(finder: FaceFinder, samples: Samples) -> None:
    """What the built-in engine renders is with the voice; shown 80 ms later, it is 80 ms late."""
    voice = voices.load(samples.voice)
    warp, wanted = WarpEngine(), RenderParameters(min_resolution=256, expand_ratio=0.18)
    take = warp.prepare(warp.portray(portraits.load(samples.portrait, finder), wanted), voice, wanted)
    luma = [frame[:256].copy() for frame in take.frames(lambda *_: None)]
    pictures = [torch.from_numpy((image - 16.0) / 219).float().clamp(0, 1).expand(3, -1, -1) for image in luma]
    reader = LipReader()
    on_time = reader.lateness_s(pictures, 25, voice)
    late = reader.lateness_s([pictures[0]] * 2 + pictures[:-2], 25, voice)
    assert abs(on_time) < 0.04
    assert late - on_time == pytest.approx(0.08, abs=0.025)


def test_lips_that_nobody_can_read_are_left_alone(voice: Voice) -> None:
    assert LipReader().lateness_s([torch.rand(3, 128, 128)] * 6, 12.5, voice) == 0.0


def test_memory_that_runs_out_is_an_error_of_ours() -> None:
    with pytest.raises(errors.OutOfMemory, match="min_resolution"), on_device():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")
    with pytest.raises(errors.DeviceFailed), on_device():
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dtype=int8", "choose one of auto, bf16, fp16, fp32"),
        ("window_frames=1", "a whole number from 2 to 10000 is wanted"),
        ("decode_chunk=1" + "0" * 30, "a whole number from 1 to 10000 is wanted"),
        ("device=gpu", "as in cuda:1"),
        ("device=", "as in cuda:1"),
        ("device=meta", "as in cuda:1"),
        ("device=cuda:x", "as in cuda:1"),
        ("dtype=bf16,dtype=fp16", "has dtype twice"),
        ("speed=fast", "known are device"),
    ],
)
def test_options_that_are_wrong_are_named(given: str, said: str) -> None:
    with pytest.raises(errors.BadParameters, match=said):
        options.from_environment({options.VARIABLE: given})


def test_options_are_read() -> None:
    read = options.from_environment({options.VARIABLE: "dtype=fp16, window_frames=12,"})
    assert read == Options(dtype="fp16", window_frames=12)
    assert read.torch_dtype == torch.float16


def test_pictures_that_are_no_numbers_are_not_shown(
    engine: SonicEngine, portrait: Portrait, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder in half precision can overflow where the latents have not."""
    bias = engine.networks.vae.decoder.time_conv_out.bias
    monkeypatch.setattr(bias, "data", torch.full_like(bias, torch.nan))
    with pytest.raises(errors.OutputBroken, match="what are no numbers"):
        rendered(engine.prepare(engine.portray(portrait, WANTED), voice, WANTED))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("image_encoder/config.json", '{"hidden_size": 0}'),
        ("image_encoder/config.json", '{"hidden_size": null}'),
        (
            "image_encoder/config.json",
            '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}',
        ),
        ("image_encoder/config.json", '{"num_hidden_layers": 999999}'),
        ("unet/config.json", '{"layers_per_block": [2, 999999]}'),
        ("unet/config.json", '{"num_frames": 1' + "0" * 30 + "}"),
        ("unet/config.json", "[]"),
        ("unet/config.json", "[" * 100_000),
    ],
)
def test_a_configuration_that_is_none_is_named(file: str, text: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "sonic-tiny")
    (tmp_path / "sonic-tiny" / "stable-video-diffusion-img2vid-xt" / file).write_text(text)
    with pytest.raises(errors.ModelBroken, match="run `sonic models verify`"):
        SonicEngine(tmp_path / "sonic-tiny", SMALL)


@pytest.mark.parametrize(
    ("frames", "fps", "made"), [(250, 25, 125), (251, 25, 126), (249, 25, 125), (300, 30, 125), (1, 25, 1), (13, 25, 7)]
)
def test_ten_seconds_are_five_windows(frames: int, fps: int, made: int) -> None:
    assert frames_made(Shape(512, 512, fps, frames)) == made
    assert Sampling().calls(125) == 125


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_weights_that_were_changed_are_told_before_they_are_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    place = tmp_path / "sonic" / "sonic-tiny"
    shutil.copytree(folder, place)
    model_folder.write_manifest(
        place, model_folder.Manifest("sonic", "sonic-tiny", tiny.LICENCE, model_folder.listed(place))
    )
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    monkeypatch.setenv("SONIC_MODEL_VERSION", "sonic-tiny")
    monkeypatch.setenv("SONIC_ENGINE_OPTIONS", "device=cpu")
    assert engines.load("sonic").model_version == "sonic-tiny"
    unet = place / "Sonic" / "unet.pth"
    content = bytearray(unet.read_bytes())
    if damage == "truncated":
        del content[-1]
    else:
        content[len(content) // 2] ^= 1
    unet.write_bytes(content)
    with pytest.raises(errors.ModelBroken, match=r"Sonic/unet\.pth has been changed.*; run `sonic models fetch sonic-"):
        engines.load("sonic")


def test_half_precision_stays_near_to_single(
    folder: Path, portrait: Portrait, voice: Voice, plain: NDArray[np.uint8]
) -> None:
    engine = SonicEngine(folder, replace(SMALL, dtype="bf16"))
    half = rendered(engine.prepare(engine.portray(portrait, WANTED), voice, WANTED))
    assert np.abs(plain.astype(int) - half).mean() < 6


def test_the_mask_is_where_the_face_is() -> None:
    mask = images.face_mask(100, 80, (20.0, 10.0, 60.0, 50.0), 1.0)
    assert mask[10:50, 20:60].all()
    assert mask.sum() == 255 * 40 * 40
