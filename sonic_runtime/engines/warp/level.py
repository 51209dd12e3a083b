"""The mouth's own axes: u along it to the picture's right, v down, in pixels from the middle between its corners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp.grid import Field


class Level:
    """A turned coordinate system."""

    def __init__(self, origin: NDArray[np.floating], roll: float) -> None:
        """`origin` is x, y in the picture; `roll` is in radians, clockwise."""
        self._x, self._y = np.float32(origin[0]), np.float32(origin[1])
        self._cos, self._sin = np.float32(np.cos(roll)), np.float32(np.sin(roll))

    def of(self, x: Field, y: Field) -> tuple[Field, Field]:
        """u, v of places in the picture."""
        dx, dy = x - self._x, y - self._y
        return dx * self._cos + dy * self._sin, dy * self._cos - dx * self._sin

    def picture(self, u: Field, v: Field) -> tuple[Field, Field]:
        """Places in the picture of u, v."""
        return u * self._cos - v * self._sin + self._x, u * self._sin + v * self._cos + self._y

    def lowered(self, x: Field, y: Field, dv: Field) -> tuple[Field, Field]:
        """Places in the picture, moved in place by `dv` along v."""
        x -= self._sin * dv
        y += self._cos * dv
        return x, y


def box_around(
    level: Level, edges: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The upright box (x0, y0, x1, y1), all even, around left, top, right, bottom in u and v, within a size."""
    u, v = np.meshgrid(edges[::2], edges[1::2])
    corners = np.stack(level.picture(u.astype(np.float32), v.astype(np.float32)))
    low, high = corners.min(axis=(1, 2)), corners.max(axis=(1, 2))
    x0, y0 = (max(int(value) // 2 * 2, 0) for value in low)
    x1, y1 = (min(int(value) // 2 * 2 + 2, limit) for value, limit in zip(high, size[::-1], strict=True))
    return x0, y0, x1, y1
