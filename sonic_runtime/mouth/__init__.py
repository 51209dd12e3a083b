"""What a mouth does while it says what is heard, by a small network of our own; see MODEL_CARD.md beside this."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonic_runtime import providers
from sonic_runtime.engines.base import CURVE_RATE_HZ, MouthCurves
from sonic_runtime.mouth import spectrum

WEIGHTS = Path(__file__).with_name("mouth.onnx")
REACH_FRAMES = 32  # how far the network looks to either side
LOOK_AHEAD_S = (spectrum.LEVEL_AHEAD + REACH_FRAMES) / CURVE_RATE_HZ
NAMES = ("aperture", "spread", "rounding", "closure", "labiodental", "tongue", "silence")
_CHUNK_FRAMES = 1000  # at a time, so that memory stays flat
_MOST_FRAMES = _CHUNK_FRAMES + 2 * REACH_FRAMES
_SHAPES = {"mel": ((1, 1, spectrum.BANDS), (1, _MOST_FRAMES, spectrum.BANDS), (1, _MOST_FRAMES, spectrum.BANDS))}


class MouthModel:
    """The network, loaded once; it may be used by several takes."""

    def __init__(self) -> None:
        self._session = providers.open_session(WEIGHTS, "mouth", shapes=_SHAPES)

    def curves(self, samples: NDArray[np.float32]) -> MouthCurves:
        """Curves for float32 [n] at 16 kHz; ceil(n / 160) values each."""
        return self.curves_of([samples])

    def curves_of(self, parts: Iterable[NDArray[np.float32]]) -> MouthCurves:
        """The same for a sound that comes in parts, of which only a few are held at a time."""
        mel = spectrum.log_mel_of(parts)
        level = spectrum.levels(mel)
        out = np.empty((len(mel), len(NAMES)), np.float32)
        for start in range(0, len(mel), _CHUNK_FRAMES):
            stop = min(start + _CHUNK_FRAMES, len(mel))
            before, after = max(start - REACH_FRAMES, 0), min(stop + REACH_FRAMES, len(mel))
            heard = spectrum.normalised(mel[before:after], level[before:after])
            (found,) = self._session.run(None, {"mel": heard[None]})
            out[start:stop] = found[0, start - before : stop - before]
        return MouthCurves(**{name: np.ascontiguousarray(out[:, number]) for number, name in enumerate(NAMES)})
