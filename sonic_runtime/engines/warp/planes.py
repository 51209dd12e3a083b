"""Colours: BT.709 luma and chroma, limited range. The picture is warped in these, so that no frame needs converting."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp.grid import Field

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
    """RGB to luma and both chromas at full resolution, uint8 [3, height, width]."""
    values = cv2.transform(rgb.astype(np.float32), _MATRIX.astype(np.float32))
    planes = np.stack([plane + np.float32(offset) for plane, offset in zip(cv2.split(values), _OFFSET, strict=True)])
    return np.clip(np.rint(planes), 0, 255).astype(np.uint8)


def colour(red: float, green: float, blue: float) -> NDArray[np.float32]:
    """One colour, float32 [3]."""
    made: NDArray[np.float64] = _MATRIX @ [red, green, blue] + _OFFSET
    return made.astype(np.float32)


class Planes:
    """A planar yuv420p frame in `data`, uint8 [height * 3 // 2, width], of which parts are written anew."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        """`picture` is luma and chroma at full resolution, [3, height, width], its sides even."""
        height, width = picture.shape[1:]
        self.data = np.empty((height * 3 // 2, width), np.uint8)
        self.luma = self.data[:height]
        quarter = self.data[height:].reshape(2, height // 2, width // 2)
        self.chroma = (quarter[0], quarter[1])
        self.write(picture, 0, 0)

    def write(self, part: NDArray[np.uint8], x: int, y: int) -> None:
        """Put a part (uint8 [3, height, width]) at an even place; its sides are even too."""
        height, width = part.shape[1:]
        self.luma[y : y + height, x : x + width] = part[0]
        for plane, full in zip(self.chroma, part[1:], strict=True):
            plane[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2] = halved(full)

    def blend(self, colours: Field, alpha: Field, x: int, y: int) -> None:
        """Lay colours, [3, height, width], over what is at an even place, by `alpha`, [height, width]."""
        height, width = alpha.shape
        _blend(self.luma[y : y + height, x : x + width], colours[0] * alpha, alpha)
        half = halved(alpha)
        for plane, full in zip(self.chroma, colours[1:], strict=True):
            _blend(plane[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2], halved(full * alpha), half)


def _blend(under: NDArray[np.uint8], over: Field, alpha: Field) -> None:
    """`over` has been multiplied by alpha."""
    under[...] = np.rint(under * (1 - alpha) + over)


def halved(plane: NDArray[Any]) -> NDArray[Any]:
    """The mean of every four pixels."""
    height, width = plane.shape
    return np.asarray(cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA))


def sample(plane: NDArray[np.uint8], x: Field, y: Field, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """The plane at other places, each [rows, columns]; the edge goes on for ever. `into` may be a part of a plane."""
    return np.asarray(cv2.remap(plane, x, y, cv2.INTER_LINEAR, dst=into, borderMode=cv2.BORDER_REPLICATE))
