"""Recordings in many shapes, made here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def record(
    path: Path, seconds: float, rate: int = 44_100, layout: str = "stereo", codec: str = "pcm_s16le", gain: float = 1.0
) -> Path:
    """A tone that comes and goes, in whatever container the file's name asks for."""
    channels = av.AudioLayout(layout).nb_channels
    count = round(seconds * rate)
    times = np.arange(count) / rate
    wave = gain * 0.5 * np.sin(2 * np.pi * 220 * times) * (0.5 + 0.5 * np.sin(2 * np.pi * 2 * times))
    samples = np.repeat(wave.astype(np.float32)[None], channels, axis=0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout=layout,
            rate=rate,
            frame_size=stream.codec_context.frame_size or None,
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path
