"""Log-mel spectrum: 40 bands, 100 a second, 25 ms windows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sonic_runtime.engines.base import CURVE_RATE_HZ, SPEECH_RATE_HZ

BANDS = 40
WINDOW = SPEECH_RATE_HZ * 25 // 1000
HOP = SPEECH_RATE_HZ // CURVE_RATE_HZ
_FFT = 512
_LOW_HZ, _HIGH_HZ = 60.0, 7600.0
_CHUNK = 1000  # frames at a time, so that memory stays flat
FLOOR = 1e-10
LEVEL_PAST, LEVEL_AHEAD = 300, 100  # frames that tell how loud the voice is
LEVEL_FLOOR = -11.0  # mean log power of a voice at about -60 dB; what is softer is not made louder


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithm of the power in each band, float32 [ceil(n / 160), 40], for float32 [n] at 16 kHz.

    Frame i is centred on sample 160 * i + 80.
    """
    return log_mel_of([samples])


def log_mel_of(parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The same for a sound that comes in parts, of which only a few are held at a time."""
    found: list[NDArray[np.float32]] = [np.empty((0, BANDS), np.float32)]
    count = held = 0
    waiting = [np.zeros((WINDOW - HOP) // 2, np.float32)]
    for part in parts:
        waiting.append(part)
        count, held = count + len(part), held + len(part)
        if held >= _CHUNK * HOP:
            waiting = [_take(np.concatenate(waiting), found)]
            held = 0
    frames = -(-count // HOP)
    _take(np.concatenate([*waiting, np.zeros(WINDOW, np.float32)]), found)
    return np.concatenate(found)[:frames]


def _take(samples: NDArray[np.float32], found: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Every whole frame of the samples, added to those found; returns the samples that later frames need."""
    window, filters = np.hanning(WINDOW).astype(np.float32), _filters()
    count = max((len(samples) - WINDOW) // HOP + 1, 0)
    for start in range(0, count, _CHUNK):
        at = np.arange(start, min(start + _CHUNK, count))[:, None] * HOP + np.arange(WINDOW)
        power = np.abs(np.fft.rfft(samples[at] * window, _FFT)) ** 2
        found.append(np.log(power @ filters + FLOOR).astype(np.float32))
    return samples[count * HOP :]


def levels(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """How loud the voice is around each frame, [n]: the loudest from LEVEL_PAST before to LEVEL_AHEAD after it."""
    loudness = np.pad(mel.mean(axis=1), (LEVEL_PAST, LEVEL_AHEAD), constant_values=np.float32(np.log(FLOOR)))
    loudest: NDArray[np.float32] = sliding_window_view(loudness, LEVEL_PAST + LEVEL_AHEAD + 1).max(axis=1)
    return np.maximum(loudest, np.float32(LEVEL_FLOOR))


def normalised(mel: NDArray[np.float32], level: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Log-mel frames against the voice's recent level, -2.5 to 1.5: the same for soft and loud recordings."""
    level = levels(mel) if level is None else level
    return np.clip((mel - level[:, None]) / 5, -2.5, 1.5).astype(np.float32)


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
