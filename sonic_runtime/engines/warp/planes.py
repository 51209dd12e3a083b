"""Colours: BT.709 luma and chroma, limited range. The picture is warped in these, so that no frame needs converting."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_KR, _KB = 0.2126, 0.0722
_LUMA = np.array([_KR, 1 - _KR - _KB, _KB])
_MATRIX = np.stack(
    [
        _LUMA * 219 / 255,
        (np.array([0, 0, 1]) - _LUMA) / (2 * (1 - _KB)) * 224 / 255,
        (np.array([1, 0, 0]) - _LUMA) / (2 * (1 - _KR)) * 224 / 255,
    ]
)
_OFFSET = np.array([16.0, 128.0, 128.0])


def from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB to luma and chroma at full resolution, uint8 [height, width, 3]."""
    values = cv2.transform(rgb.astype(np.float32), _MATRIX.astype(np.float32)) + _OFFSET.astype(np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def colour(red: float, green: float, blue: float) -> NDArray[np.float32]:
    """One colour, float32 [3]."""
    made: NDArray[np.float64] = _MATRIX @ [red, green, blue] + _OFFSET
    return made.astype(np.float32)


class Planes:
    """A planar yuv420p frame in `data`, uint8 [height * 3 // 2, width], of which parts are written anew."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        """`picture` is luma and chroma at full resolution, its sides even."""
        height, width = picture.shape[:2]
        self.data = np.empty((height * 3 // 2, width), np.uint8)
        self.luma = self.data[:height]
        quarter = self.data[height:].reshape(2, height // 2, width // 2)
        self._chroma = (quarter[0], quarter[1])
        self.write(picture, 0, 0)

    def write(self, part: NDArray[np.uint8], x: int, y: int) -> None:
        """Put a part (uint8 [height, width, 3]) at an even place; its sides are even too."""
        height, width = part.shape[:2]
        half = cv2.resize(part[:, :, 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        self.write_planes(part[:, :, 0], half.astype(np.uint8, copy=False), x, y)

    def write_planes(self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8], x: int, y: int) -> None:
        """Put luma [height, width] and chroma [height / 2, width / 2, 2] at an even place."""
        height, width = luma.shape
        self.luma[y : y + height, x : x + width] = luma
        for number, plane in enumerate(self._chroma):
            plane[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2] = chroma[:, :, number]

    def chroma(self) -> NDArray[np.uint8]:
        """Both chroma planes as one, uint8 [height / 2, width / 2, 2]."""
        return np.ascontiguousarray(np.moveaxis(np.stack(self._chroma), 0, -1))
