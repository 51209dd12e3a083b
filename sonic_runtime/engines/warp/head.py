"""Small motion of the whole head: shifted and tilted, fading to nothing before the edge of the region."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime.faces import topology

Field = NDArray[np.float32]


class Head:
    """The head's region of a picture, and how far each pixel of it goes along."""

    def __init__(self, landmarks: NDArray[np.float32], height: int, width: int) -> None:
        face = landmarks[:468, :2]
        low, high = face.min(axis=0), face.max(axis=0)
        self.unit = float(high[1] - low[1])
        self.x0, self.x1 = _even(low[0] - 0.75 * self.unit, high[0] + 0.75 * self.unit, width)
        self.y0, self.y1 = _even(low[1] - 0.75 * self.unit, high[1] + 0.75 * self.unit, height)
        rows, columns = np.mgrid[self.y0 : self.y1, self.x0 : self.x1].astype(np.float32)
        self._columns, self._rows = columns - self.x0, rows - self.y0
        centre = (low + high) / 2
        pivot = face[topology.CHIN]
        reach = np.array([0.5 * (high[0] - low[0]), 0.5 * self.unit])
        away = np.hypot((columns - centre[0]) / reach[0], (rows - centre[1]) / reach[1])
        border = np.minimum.reduce(
            [columns - self.x0, self.x1 - 1 - columns, rows - self.y0, self.y1 - 1 - rows]
        ) / (0.25 * self.unit)  # fmt: skip
        self._weight = (_eased(1 - (away - 1.05) / 1.0) * _eased(border)).astype(np.float32)
        self._tilt_x = self._weight * (rows - pivot[1])
        self._tilt_y = self._weight * (columns - pivot[0])

    def move(self, picture: NDArray[np.uint8], shift_x: float, shift_y: float, roll: float) -> NDArray[np.uint8]:
        """The region of a picture after the motion; shifts are shares of the face's height, the roll is in radians."""
        at_x = self._columns - self._weight * np.float32(shift_x * self.unit) + self._tilt_x * np.float32(roll)
        at_y = self._rows - self._weight * np.float32(shift_y * self.unit) - self._tilt_y * np.float32(roll)
        part = picture[self.y0 : self.y1, self.x0 : self.x1]
        return cv2.remap(part, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)


def _even(start: float, stop: float, limit: int) -> tuple[int, int]:
    return max(int(start) // 2 * 2, 0), min(int(stop) // 2 * 2, limit)


def _eased(values: Field) -> Field:
    clipped = np.clip(values, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)
