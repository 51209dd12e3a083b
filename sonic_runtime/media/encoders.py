"""What encodes the picture: NVENC where it really does, else x264.

FFmpeg lists NVENC wherever it was built with it; only a frame that comes back encoded shows that there is a GPU with an
encoder and a driver for it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from sonic.exceptions import BadSettings
from sonic_runtime import errors
from sonic_runtime.engines.base import Shape

VARIABLE = "SONIC_ENCODER"
_CHOICES = ("auto", "x264", "nvenc")
_TRIAL = Shape(256, 256, 25, 1)  # NVENC takes nothing much smaller
_LIMITED, _BT709 = 1, 1  # by FFmpeg's numbers
_log = logging.getLogger("sonic_runtime.encoders")


@dataclass(frozen=True, eq=False)
class Encoder:
    """One of FFmpeg's encoders of H.264, and how it is used."""

    codec: str
    options: Mapping[str, str]
    names_colours: bool = True  # in the stream, by what its context says

    def set_up(self, context: Any, shape: Shape) -> None:
        """Tell a codec context, or a stream of it, what comes: planar yuv420p, BT.709, limited range."""
        context.width, context.height, context.pix_fmt = shape.width, shape.height, "yuv420p"
        codec = getattr(context, "codec_context", context)
        codec.color_range = _LIMITED
        if self.names_colours:
            codec.color_primaries = codec.color_trc = codec.colorspace = _BT709


X264 = Encoder(
    "libx264",
    {"preset": "veryfast", "crf": "20", "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"},
    names_colours=False,
)
NVENC = Encoder("h264_nvenc", {"preset": "p4", "tune": "hq", "rc": "vbr", "cq": "21", "b": "0", "spatial-aq": "1"})


@functools.cache
def candidates() -> tuple[Encoder, ...]:
    """The encoders for this process, the best first: NVENC may refuse a size, or one more video at the same time.

    By SONIC_ENCODER: auto, x264 or nvenc. Raises BadSettings for another one, errors.DeviceFailed where NVENC is wanted
    and does not encode.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if wanted not in _CHOICES:
        raise BadSettings(f"{VARIABLE} is {wanted!r}; choose one of {', '.join(_CHOICES)}")
    problem = "" if wanted == "x264" else trial(NVENC)
    if wanted == "nvenc" and problem:
        raise errors.DeviceFailed(f"{VARIABLE} is nvenc, which does not encode here: {problem}; set it to auto")
    if wanted == "auto":
        _log.info(
            "encoder chosen", extra={"encoder": (X264 if problem else NVENC).codec, "nvenc": problem or "encodes"}
        )
    return {"x264": (X264,), "nvenc": (NVENC,)}.get(wanted) or ((X264,) if problem else (NVENC, X264))


@functools.cache
def trial(encoder: Encoder) -> str:
    """Why an encoder does not work here, found out once in a process by a frame; empty when it does."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said:
            return _encoded(encoder, said)
    finally:
        av.logging.set_level(level)


def _encoded(encoder: Encoder, said: list[tuple[int, str, str]]) -> str:
    try:
        context = av.CodecContext.create(encoder.codec, "w")
        encoder.set_up(context, _TRIAL)
        context.framerate, context.time_base = _TRIAL.fps, Fraction(1, _TRIAL.fps)  # type: ignore[attr-defined]
        context.options = dict(encoder.options)
        grey = np.full((_TRIAL.height * 3 // 2, _TRIAL.width), 128, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, "yuv420p")
        frame.pts = 0
        packets = [*context.encode(frame), *context.encode(None)]  # type: ignore[attr-defined]
    except (av.FFmpegError, ValueError) as error:  # what FFmpeg logs says more than the error
        return said[0][2].strip() if said else str(error)
    return "" if any(packet.size for packet in packets) else "it returned nothing"
