"""What a mouth does while it says what is heard: read off the spectrum, without weights.

Open vowels have a high first formant, so the centre of the power between 250 and 1100 Hz, weighted by how loud the
voice is against its own recent level, tells the opening. The balance of the second formant's region tells spread from
rounded lips. Lips pressed together leave a hum without the bands above 600 Hz, or a short gap within speech.
Looks at most LOOK_AHEAD_S ahead.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sonic_runtime.engines.base import CURVE_RATE_HZ, MouthCurves
from sonic_runtime.mouth import spectrum

LOOK_AHEAD_S = 2.0
_LEVEL_FRAMES = int(LOOK_AHEAD_S * CURVE_RATE_HZ)
_QUIET_DB = -60.0  # below this, full scale being 0, nothing is speech
_PAUSE_FRAMES = 15  # a gap as long as this is a pause, a shorter one belongs to a consonant


class MouthModel:
    """Stateless; a class so that engines load it once, as they will one with weights."""

    def curves(self, samples: NDArray[np.float32]) -> MouthCurves:
        """Curves for float32 [n] at 16 kHz; ceil(n / 160) values each."""
        mel = spectrum.log_mel(samples)
        power = np.exp(mel.astype(np.float64))
        centres = spectrum.band_centres_hz()
        voice_db = _decibels(_band(power, centres, 200, 4000))
        level_db = _running_max(voice_db, _LEVEL_FRAMES)
        loudness = np.clip((voice_db - level_db + 30) / 27, 0, 1) * (voice_db > _QUIET_DB)
        silence = _pauses(loudness < 0.18)
        first = _centre(power, centres, 250, 1100)
        openness = np.clip((first - 330) / 370, 0, 1)
        bright = _decibels(_band(power, centres, 1700, 2900)) - _decibels(_band(power, centres, 600, 1500))
        upper = _decibels(_band(power, centres, 600, 4000)) - _running_max(voice_db, 40)
        closure = np.clip((-upper - 20) / 9, 0, 1) * (1 - silence)
        hiss = _decibels(_band(power, centres, 3500, 7600)) - voice_db
        labiodental = np.clip((hiss + 2) / 8, 0, 1) * np.clip((0.75 - loudness) / 0.3, 0, 1) * (1 - silence)
        voiced = loudness * (1 - closure)
        aperture = _smoothed(voiced * (0.25 + 0.75 * openness) * (1 - 0.6 * labiodental), 7) * (1 - silence)
        return MouthCurves(
            aperture=_finished(aperture * (1 - closure)),
            spread=_finished(_smoothed(voiced * np.clip((bright + 6) / 14, 0, 1), 9)),
            rounding=_finished(_smoothed(voiced * np.clip((-bright - 12) / 14, 0, 1), 9)),
            closure=_finished(_smoothed(closure, 3)),
            labiodental=_finished(_smoothed(labiodental, 5)),
            tongue=_finished(_smoothed(voiced * np.clip((bright + 2) / 12, 0, 1) * (1 - openness), 7)),
            silence=_finished(silence),
        )


def _band(power: NDArray[np.float64], centres: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    total: NDArray[np.float64] = power[:, (centres >= low) & (centres < high)].sum(axis=1)
    return total


def _centre(power: NDArray[np.float64], centres: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    inside = (centres >= low) & (centres < high)
    weights = np.sqrt(power[:, inside])
    centre: NDArray[np.float64] = (weights @ centres[inside]) / np.maximum(weights.sum(axis=1), 1e-12)
    return centre


def _decibels(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Against a full-scale sine, roughly."""
    return 10 * np.log10(power + 1e-10) - 40


def _running_max(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """The largest from `reach` before to `reach` after each."""
    padded = np.pad(values, reach, mode="edge")
    largest: NDArray[np.float64] = sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    return largest


def _smoothed(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Averaged over a raised cosine, centred: no delay."""
    window = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(values, width // 2, mode="edge"), window / window.sum(), mode="valid")


def _pauses(quiet: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 where it is quiet for long enough, else 0."""
    out = np.zeros(len(quiet))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        if stop - start >= _PAUSE_FRAMES or start == 0 or stop == len(quiet):
            out[start:stop] = 1
    return out


def _finished(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.clip(values, 0, 1).astype(np.float32)
