"""A level patch of the picture around some landmarks: u runs along the face's own horizontal, v down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


class Patch:
    """A box of the picture and, for each of its pixels, u and v about an origin; all in pixels of the picture."""

    def __init__(
        self, origin: NDArray[np.float32], roll: float, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> None:
        """`box` is (left, top, right, bottom) in u and v; `size` is (height, width) of the picture."""
        self.origin = origin.astype(np.float64)
        self._cos, self._sin = float(np.cos(roll)), float(np.sin(roll))
        corners = np.array([self.to_picture(u, v) for u in box[::2] for v in box[1::2]])
        low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
        self.x0, self.y0 = (max(int(value) // 2 * 2, 0) for value in low)  # even, as chroma needs it
        self.x1, self.y1 = min(int(high[0]) // 2 * 2, size[1]), min(int(high[1]) // 2 * 2, size[0])
        rows, columns = np.mgrid[self.y0 : self.y1, self.x0 : self.x1].astype(np.float32)
        dx, dy = columns - np.float32(origin[0]), rows - np.float32(origin[1])
        self.u: Field = dx * np.float32(self._cos) + dy * np.float32(self._sin)
        self.v: Field = dy * np.float32(self._cos) - dx * np.float32(self._sin)

    def of_picture(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """Points [n, 2] of the picture as u, v."""
        moved = points.astype(np.float64) - self.origin
        return np.stack([moved @ [self._cos, self._sin], moved @ [-self._sin, self._cos]], axis=1)

    def to_picture(self, u: float, v: float) -> tuple[float, float]:
        return (
            self.origin[0] + u * self._cos - v * self._sin,
            self.origin[1] + u * self._sin + v * self._cos,
        )

    def maps(self, u: Field, v: Field) -> tuple[Field, Field]:
        """Where in the patch's own pixels to sample for source positions u, v."""
        cos, sin = np.float32(self._cos), np.float32(self._sin)
        x = u * cos - v * sin + np.float32(self.origin[0] - self.x0)
        y = u * sin + v * cos + np.float32(self.origin[1] - self.y0)
        return x, y

    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return picture[self.y0 : self.y1, self.x0 : self.x1]
