"""Is the mouth with the voice? What was rendered is looked at, and compared with what a mouth does that says it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from sonic_runtime.engines.base import CURVE_RATE_HZ, Face, Voice
from sonic_runtime.faces import FaceFinder, topology
from sonic_runtime.mouth import MouthModel, sync

MOST_LOOKED_AT_S = 8.0


class LipReader:
    """The built-in engine's networks that find mouths in pictures and hear what they do. Raises errors.ModelMissing."""

    def __init__(self) -> None:
        self._finder = FaceFinder()
        self._model = MouthModel()

    def lateness_s(self, frames: Iterable[Tensor], rate_hz: float, voice: Voice) -> float:
        """By how much the mouth in frames ([3, height, width], 0 to 1) comes after the voice: 0 where nobody can tell,
        as without a face, or with a mouth that does something else."""
        openings = [self._opening(frame) for frame in frames]
        seen = [(number / rate_hz, opening) for number, opening in enumerate(openings) if opening is not None]
        if len(seen) < len(openings) / 2 or len(seen) < 2:
            return 0.0
        times_s, values = np.array(seen).T
        heard = self._model.curves_of(voice.blocks()).aperture
        count = min(len(heard), int(len(openings) / rate_hz * CURVE_RATE_HZ))
        curve = np.interp(np.arange(count) / CURVE_RATE_HZ, times_s, values).astype(np.float32)
        return sync.lateness(curve, heard[:count]).offset_s

    def _opening(self, frame: Tensor) -> float | None:
        """Of the inner lips, in distances of the outer corners of the eyes; None without a face."""
        rgb = (frame * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        faces = self._finder.find(rgb)
        return _opening(faces[0]) if faces else None


def _opening(face: Face) -> float:
    def distance(one: int, other: int) -> float:
        return float(np.linalg.norm(face.landmarks[one, :2] - face.landmarks[other, :2]))

    eyes = distance(topology.LEFT_EYE_OUTER, topology.RIGHT_EYE_OUTER)
    return distance(topology.INNER_LIP_TOP, topology.INNER_LIP_BOTTOM) / max(eyes, 1e-3)
