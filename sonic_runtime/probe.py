"""Proof that a worker can render: half a second of a drawn face saying "ah", by the whole pipeline, and checked.

Every frame must decode and show something. An engine that denoises does so in a few steps, which show that its networks
compute on this device, and not yet a face; so how much the mouth moves is asked of the others only. What the clip must
look like is known for some model versions, and told by the digest.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from sonic.parameters import PROBE_STEPS
from sonic.v1 import jobs_pb2, parameters_pb2
from sonic_runtime import errors
from sonic_runtime.engines.base import SPEECH_RATE_HZ, Engine
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media.portraits import MIN_SIDE_PX
from sonic_runtime.pipeline import Request, Tracker, render

DURATION_S = 0.5
_SIDE_PX = 256
_PITCH_HZ = 120.0
_FORMANTS_HZ = ((730, 90), (1090, 110), (2440, 170))
_MIN_CONTRAST = 2.0  # standard deviation of the luma of a frame: one colour all over is no picture
_MIN_CHANGE = 2.0  # mean luma change around the mouth between its stillest and its widest frame
_BLOCK_PX = 16
# Of 255, in the mean luma of a block. Boxes with other threads, encoders or vector units differ by up to 4 in a block
# and 0.3 on average; a mouth a quarter too wide by 15 in a block, one that comes a frame late by 47.
_MOST_OFF, _MOST_OFF_ON_AVERAGE = 7, 0.75
_EXPECTED = Path(__file__).with_name(
    "probe_clips"
)  # one file for each model version, by scripts/generate_probe_clip.py
_log = logging.getLogger("sonic_runtime.probe")


@dataclass(frozen=True)
class Clip:
    """A probe clip that was right."""

    realtime_factor: float  # seconds of video per second of work
    digest: str  # the same on every sound box of a model version; empty where nobody knows how the clip should look


def run(engine: Engine, finder: FaceFinder, tracker: Tracker) -> Clip:
    """Render and check the clip.

    Raises errors.RenderError; errors.OutputBroken when the video is there but is not right.
    """
    report, took_s, luma = _rendered(engine, finder, tracker)
    _check_pictures(luma, report.frames)
    if engine.name not in PROBE_STEPS:
        _check_motion(luma)
    return Clip(report.video_seconds / took_s, digest_of(blocks_of(luma), expected_blocks(engine.model_version)))


def rendered_blocks(engine: Engine, finder: FaceFinder) -> NDArray[np.uint8]:
    """`blocks_of` the clip as it is rendered here."""
    return blocks_of(_rendered(engine, finder, Tracker(lambda _progress: None, lambda: False))[2])


def blocks_of(luma: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The mean luma of blocks of 16 x 16 pixels of frames [n, height, width]: uint8 [n, height / 16, width / 16]."""
    count, height, width = luma.shape
    split = luma.reshape(count, height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX)
    blocks: NDArray[np.uint8] = split.mean(axis=(2, 4)).round().astype(np.uint8)
    return blocks


def expected_blocks(model_version: str) -> NDArray[np.uint8] | None:
    """`blocks_of` the clip as a sound box renders it; None for a model version of which that is not known."""
    path = _EXPECTED / f"{model_version}.npy"
    if not path.exists():
        return None
    blocks: NDArray[np.uint8] = np.load(path)
    return blocks


def digest_of(found: NDArray[np.uint8], expected: NDArray[np.uint8] | None) -> str:
    """That of the expected picture if this is it, or of this picture if it is another one.

    Sound boxes differ in the last bits, and any rounding makes that another number somewhere. So it is not the rounded
    picture that is hashed, but the expected one, where no block is off by more than a tolerance.
    """
    if expected is None:
        return ""
    off = np.abs(found.astype(int) - expected) if found.shape == expected.shape else np.array([255])
    if off.max() <= _MOST_OFF and off.mean() <= _MOST_OFF_ON_AVERAGE:
        found = expected
    else:
        extra = {"most_off": int(off.max()), "off_on_average": round(float(off.mean()), 2)}
        _log.warning("the probe clip looks wrong", extra=extra)
    return hashlib.sha256(found.tobytes()).hexdigest()[:16]


def _rendered(
    engine: Engine, finder: FaceFinder, tracker: Tracker
) -> tuple[jobs_pb2.RenderReport, float, NDArray[np.float32]]:
    """The report, how many seconds it took, and the luma of the decoded frames [n, height, width]."""
    assert _SIDE_PX >= MIN_SIDE_PX
    with tempfile.TemporaryDirectory(prefix="sonic-probe-") as name:
        folder = Path(name)
        wanted = parameters_pb2.RenderParameters(
            min_resolution=_SIDE_PX,
            expand_ratio=0.0,
            motion_scale=0.0,
            inference_steps=PROBE_STEPS.get(engine.name),
        )
        request = Request(folder / "face.png", folder / "voice.wav", folder / "out.mp4", wanted)
        cv2.imwrite(str(request.portrait), draw_face(_SIDE_PX)[:, :, ::-1])
        write_voice(request.voice)
        started_s = time.monotonic()
        report = render(request, engine, finder, tracker)
        took_s = time.monotonic() - started_s
        with av.open(str(request.output)) as container:
            luma = [frame.to_ndarray(format="gray").astype(np.float32) for frame in container.decode(video=0)]
    return report, took_s, np.stack(luma)


def draw_face(side: int) -> NDArray[np.uint8]:
    """A face that was never anybody's, uint8 [side, side, 3], RGB."""
    size = 512
    image = np.full((size, size, 3), (188, 200, 212), np.float32)
    _ellipse(image, (256, 520), (190, 150), (70, 84, 110))
    _ellipse(image, (256, 380), (62, 110), (196, 150, 124))
    _ellipse(image, (256, 215), (142, 178), (62, 44, 34))
    _ellipse(image, (256, 250), (112, 152), (224, 178, 150))
    for x in (-1, 1):
        _ellipse(image, (256 + 62 * x, 300), (36, 34), (228, 164, 142), blur=15)
        _ellipse(image, (256 + 48 * x, 232), (25, 12), (246, 242, 238), blur=1.5)
        _ellipse(image, (256 + 48 * x, 232), (10, 11), (74, 50, 36), blur=1)
        _ellipse(image, (256 + 48 * x, 232), (4.5, 5), (14, 10, 10), blur=0.8)
        _ellipse(image, (256 + 48 * x - 3, 228), (2, 2), (255, 255, 255), blur=0.5)
        cv2.ellipse(image, (256 + 48 * x, 234), (26, 15), 0, 190, 350, (60, 36, 30), 3, cv2.LINE_AA)
        cv2.ellipse(image, (256 + 48 * x, 218), (32, 15), 0, 200, 340, (74, 50, 38), 6, cv2.LINE_AA)
        _ellipse(image, (256 + 11 * x, 297), (6, 4), (150, 98, 82), blur=2)
        _ellipse(image, (256 + 20 * x, 276), (8, 30), (206, 156, 130), blur=9)
    _ellipse(image, (256, 286), (17, 13), (236, 190, 164), blur=6)
    _ellipse(image, (256, 338), (40, 10), (188, 104, 98), blur=2)
    _ellipse(image, (256, 349), (34, 11), (202, 118, 110), blur=2)
    cv2.ellipse(image, (256, 334), (40, 10), 0, 15, 165, (104, 48, 48), 2, cv2.LINE_AA)
    _ellipse(image, (256, 372), (26, 6), (204, 156, 132), blur=6)
    soft = cv2.GaussianBlur(image, (0, 0), 1.2)
    return cv2.resize(np.clip(soft, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )


def _ellipse(
    image: NDArray[np.float32],
    centre: tuple[float, float],
    radii: tuple[float, float],
    colour: tuple[int, int, int],
    blur: float = 3,
) -> None:
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    away = np.hypot((columns - centre[0]) / radii[0], (rows - centre[1]) / radii[1])
    cover = np.clip((1 - away) * min(radii) / blur + 0.5, 0, 1)[..., None]
    image += cover * (np.array(colour, np.float32) - image)


def write_voice(path: Path) -> None:
    """Silence, then "ah", then silence: pulses through three resonances."""
    count = int(DURATION_S * SPEECH_RATE_HZ)
    sound = np.zeros(count)
    sound[:: int(SPEECH_RATE_HZ / _PITCH_HZ)] = 1
    for centre, width in _FORMANTS_HZ:
        radius, angle = np.exp(-np.pi * width / SPEECH_RATE_HZ), 2 * np.pi * centre / SPEECH_RATE_HZ
        for i in range(2, count):
            sound[i] += 2 * radius * np.cos(angle) * sound[i - 1] - radius**2 * sound[i - 2]
    times = np.linspace(0, 1, count)
    sound *= np.clip(np.minimum(times - 0.25, 0.85 - times) / 0.08, 0, 1) / np.abs(sound).max()
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SPEECH_RATE_HZ, count, "NONE", ""))
        file.writeframes((sound * 20_000).astype("<i2").tobytes())


def _check_pictures(luma: NDArray[np.float32], frames: int) -> None:
    if len(luma) != frames:
        raise errors.OutputBroken(f"{len(luma)} frames can be decoded, not {frames}")
    contrast = float(luma.std(axis=(1, 2)).min())
    if contrast < _MIN_CONTRAST:
        raise errors.OutputBroken(
            f"a frame is nearly of one colour: {contrast:.2f} of luma, {_MIN_CONTRAST} is the least"
        )


def _check_motion(luma: NDArray[np.float32]) -> None:
    side = luma[0].shape[0]
    mouth = [image[int(0.58 * side) : int(0.80 * side), int(0.38 * side) : int(0.62 * side)] for image in luma]
    change = max(float(np.abs(image - mouth[0]).mean()) for image in mouth)
    if change < _MIN_CHANGE:
        raise errors.OutputBroken(f"the mouth hardly moves: {change:.2f} of luma, at least {_MIN_CHANGE} is expected")
