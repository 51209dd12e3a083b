"""Log-mel spectrum: 40 bands, 100 a second, 25 ms windows."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sonic_runtime.engines.base import CURVE_RATE_HZ, SPEECH_RATE_HZ

BANDS = 40
WINDOW = SPEECH_RATE_HZ * 25 // 1000
HOP = SPEECH_RATE_HZ // CURVE_RATE_HZ
_FFT = 512
_LOW_HZ, _HIGH_HZ = 60.0, 7600.0
_CHUNK = 3000  # frames at a time, so that memory stays flat
FLOOR = 1e-10
LEVEL_PAST, LEVEL_AHEAD = 300, 100  # frames that tell how loud the voice is
LEVEL_FLOOR = -11.0  # mean log power of a voice at about -60 dB; what is softer is not made louder


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithm of the power in each band, float32 [ceil(n / 160), 40], for float32 [n] at 16 kHz.

    Frame i is centred on sample 160 * i + 80.
    """
    count = -(-len(samples) // HOP)
    padded = np.pad(samples, ((WINDOW - HOP) // 2, WINDOW))
    window, filters = np.hanning(WINDOW).astype(np.float32), _filters()
    out = np.empty((count, BANDS), np.float32)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        at = np.arange(start, stop)[:, None] * HOP + np.arange(WINDOW)
        power = np.abs(np.fft.rfft(padded[at] * window, _FFT)) ** 2
        out[start:stop] = np.log(power @ filters + FLOOR)
    return out


def normalised(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel frames against the voice's recent level, about -2.5 to 1: the same for soft and loud recordings."""
    loudness = mel.mean(axis=1)
    level = np.maximum(_running_max(loudness), LEVEL_FLOOR)
    return np.clip((mel - level[:, None]) / 5, -2.5, 1.5).astype(np.float32)


def _running_max(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest from LEVEL_PAST frames before to LEVEL_AHEAD frames after each."""
    padded = np.pad(values, (LEVEL_PAST, LEVEL_AHEAD), constant_values=np.float32(np.log(FLOOR)))
    largest: NDArray[np.float32] = sliding_window_view(padded, LEVEL_PAST + LEVEL_AHEAD + 1).max(axis=1)
    return largest


def _edges_hz() -> NDArray[np.float64]:
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (_LOW_HZ, _HIGH_HZ))
    edges: NDArray[np.float64] = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    return edges


def _filters() -> NDArray[np.float64]:
    """Triangles over the FFT's bins, [257, 40]."""
    edges = _edges_hz()
    bins = np.linspace(0, SPEECH_RATE_HZ / 2, _FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: NDArray[np.float64] = np.maximum(np.minimum(rising, falling), 0)
    return filters
