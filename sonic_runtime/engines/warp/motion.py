"""What moves when: the mouth by what is heard, blinks and the head by chance and by the speech's own energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonic.parameters import RenderParameters
from sonic_runtime.engines.base import CURVE_RATE_HZ, MouthCurves
from sonic_runtime.engines.warp.head import Pose, eased
from sonic_runtime.engines.warp.mouth import Shape
from sonic_runtime.mouth import sync

Curve = NDArray[np.float32]
_BLINK_S = (0.08, 0.05, 0.16)  # closing, closed, opening
_BLINK_EVERY_S = (2.0, 5.5)
_SMOOTHING_S = 0.06
_DOUBT, _BELIEF = 0.25, 0.35  # a closure less sure is none; with so much more it is whole: lips do not half meet
_LOOKED_AT = 0.2  # of its time on the screen, when a frame shows what is heard
_PACES_HZ = {"shift_x": 0.16, "shift_y": 0.2, "roll": 0.13, "yaw": 0.17, "pitch": 0.22, "brow": 0.12}


@dataclass(frozen=True)
class Motion:
    """One value a frame, float32 [frames]; what they mean is said where Pose and Shape are."""

    opening: Curve
    width: Curve
    tuck: Curve
    press: Curve
    tongue: Curve
    blink: Curve  # 0 open, 1 closed
    shift_x: Curve
    shift_y: Curve
    roll: Curve
    yaw: Curve
    pitch: Curve
    brow: Curve

    def pose(self, frame: int) -> Pose:
        return Pose(*(float(getattr(self, name)[frame]) for name in Pose._fields))

    def mouth(self, frame: int) -> Shape:
        return Shape(*(float(getattr(self, name)[frame]) for name in Shape.__dataclass_fields__))

    def blink_at(self, frame: int) -> float:
        return float(self.blink[frame])


def plan(curves: MouthCurves, frames: int, parameters: RenderParameters) -> Motion:
    """The motion of a whole take. The same seed gives the same motion."""
    chance = np.random.default_rng(parameters.seed)
    times_s = (np.arange(frames) + _LOOKED_AT) / parameters.fps
    aperture, closure = curves.aperture, np.maximum(curves.closure, eased((curves.closure - _DOUBT) / _BELIEF))
    if parameters.smooth_motion:
        aperture = _smoothed(aperture) * (1 - closure)  # what presses the lips together stays pressed
    aperture = aperture * (1 - curves.silence)
    heard_s = times_s
    if parameters.lip_sync_correction:
        heard_s = times_s + sync.lateness(aperture, curves.aperture).at(times_s)
    opening = _sampled(aperture, heard_s)
    width = _sampled(_smoothed(curves.spread) - _smoothed(curves.rounding), heard_s)
    still = parameters.motion_scale
    emphasis = _emphasis(curves, times_s)
    sway = {name: _wander(times_s, chance, pace_hz) for name, pace_hz in _PACES_HZ.items()}
    return Motion(
        opening=np.clip(opening * parameters.dynamic_scale, 0, 1.25).astype(np.float32),
        width=(width * parameters.dynamic_scale).astype(np.float32),
        tuck=_sampled(_smoothed(curves.labiodental), heard_s),
        press=_sampled(closure, heard_s),
        tongue=_sampled(_smoothed(curves.tongue), heard_s),
        blink=_blinks(times_s, curves, chance),
        shift_x=(still * 0.008 * sway["shift_x"]).astype(np.float32),
        shift_y=(still * (0.006 * sway["shift_y"] + 0.008 * emphasis)).astype(np.float32),
        roll=(still * 0.016 * sway["roll"]).astype(np.float32),
        yaw=(still * 0.035 * sway["yaw"]).astype(np.float32),
        pitch=(still * (0.020 * sway["pitch"] + 0.045 * emphasis)).astype(np.float32),
        brow=(still * np.clip(0.5 * sway["brow"] + 1.2 * emphasis, 0, 1)).astype(np.float32),
    )


def _emphasis(curves: MouthCurves, times_s: NDArray[np.float64]) -> Curve:
    """How much more is said now than around now, about -0.5 to 1: phrases carry the head, stressed words the brows."""
    busy = curves.aperture * (1 - curves.silence)
    return _sampled(_smoothed(busy, 0.35) - _smoothed(busy, 2.0), times_s) * np.float32(1.6)


def _sampled(curve: Curve, times_s: NDArray[np.float64]) -> Curve:
    at_s = (np.arange(len(curve)) + 0.5) / CURVE_RATE_HZ
    return np.interp(times_s, at_s, curve).astype(np.float32)


def _smoothed(curve: Curve, seconds: float = _SMOOTHING_S) -> Curve:
    """Averaged over a raised cosine centred on each value: no delay."""
    window = np.hanning(int(seconds * CURVE_RATE_HZ) // 2 * 2 + 3)[1:-1]
    padded = np.pad(curve, len(window) // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid").astype(np.float32)


def _wander(times_s: NDArray[np.float64], chance: np.random.Generator, pace_hz: float) -> NDArray[np.float64]:
    """A slow, smooth random walk about 0, starting at 0; rarely beyond ±1."""
    total = np.zeros(len(times_s))
    for harmonic in (1.0, 1.7, 2.9):
        phase = chance.uniform(0, 2 * np.pi)
        total += (np.sin(2 * np.pi * pace_hz * harmonic * times_s + phase) - np.sin(phase)) / (2 * harmonic)
    return total


def _blinks(times_s: NDArray[np.float64], curves: MouthCurves, chance: np.random.Generator) -> Curve:
    """Every few seconds, and rather in a pause than in the middle of a word."""
    closing_s, closed_s, opening_s = _BLINK_S
    out = np.zeros(len(times_s))
    last_s = float(times_s[-1]) if len(times_s) else 0.0
    at_s = chance.uniform(0.8, 2.5)
    while at_s < last_s:
        near = np.arange(int((at_s - 0.3) * CURVE_RATE_HZ), int((at_s + 0.3) * CURVE_RATE_HZ))
        near = near[(near >= 0) & (near < len(curves.aperture))]
        start_s = near[int(np.argmin(curves.aperture[near]))] / CURVE_RATE_HZ if len(near) else at_s
        since = times_s - start_s
        lid = np.minimum(since / closing_s, (closing_s + closed_s + opening_s - since) / opening_s)
        out = np.maximum(out, np.clip(lid, 0, 1))
        at_s += chance.uniform(*_BLINK_EVERY_S)
    return (out * out * (3 - 2 * out)).astype(np.float32)
