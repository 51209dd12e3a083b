"""Motion of the whole head: shifted, tilted, turned and nodding a little, with brows that rise.

Fields are in pixels for a motion of 1 and fade to nothing before the edge of the region, so that the background stays
whole. Turning and nodding move what is near more than what is far, by the depth of the face mesh.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp.grid import Field, Grid, combined
from sonic_runtime.faces import topology

_WHOLE, _REACH = 1.0, 1.65  # all of the motion within, none beyond; 1 is the rim of the face
_BROWS = ((70, 63, 105, 66, 107), (300, 293, 334, 296, 336))


class Pose(NamedTuple):
    """One frame's motion. Shifts are shares of the face's height, angles are in radians, `brow` is 0 to 1."""

    shift_x: float
    shift_y: float
    roll: float
    yaw: float
    pitch: float
    brow: float


class Head:
    """The head's region of a picture."""

    def __init__(self, landmarks: NDArray[np.float32], size: tuple[int, int]) -> None:
        """`size` is (height, width) of the picture."""
        self._landmarks = landmarks[:468]
        face = self._landmarks[:, :2]
        low, high = face.min(axis=0), face.max(axis=0)
        self.unit = float(high[1] - low[1])
        self._centre, self._half = (low + high) / 2, (high - low) / 2
        ends = zip(self._centre - _REACH * self._half, self._centre + _REACH * self._half, size[::-1], strict=True)
        (x0, x1), (y0, y1) = (_even(*end) for end in ends)
        self.box = (x0, y0, x1, y1)

    def fields(self, grid: Grid) -> tuple[Field, Field]:
        """Displacements on a grid: x and y, each [6, rows, columns] in the order of Pose."""
        weight = self._weight(grid)
        pivot = self._landmarks[topology.CHIN, :2]
        depth = weight * self._depth(grid)
        nothing = np.zeros_like(weight)
        unit = np.float32(self.unit)
        x = [weight * unit, nothing, -weight * (grid.y - pivot[1]), depth, nothing, nothing]
        y = [nothing, weight * unit, weight * (grid.x - pivot[0]), nothing, depth, self._brows(grid)]
        return np.stack(x).astype(np.float32), np.stack(y).astype(np.float32)

    def _weight(self, grid: Grid) -> Field:
        away = np.hypot((grid.x - self._centre[0]) / self._half[0], (grid.y - self._centre[1]) / self._half[1])
        x0, y0, x1, y1 = self.box
        edges = [grid.x - x0, x1 - 1 - grid.x, grid.y - y0, y1 - 1 - grid.y]
        border = np.minimum.reduce(edges) / (0.25 * self.unit)
        return eased((_REACH - away) / (_REACH - _WHOLE)) * eased(border)

    def _depth(self, grid: Grid) -> Field:
        """How far each node is in front of the face's rim, in pixels: an even surface through the mesh."""
        centre, half = self._centre, self._half
        nearness = self._landmarks[:, 2].max() - self._landmarks[:, 2]
        near = (self._landmarks[:, :2] - centre) / half
        bend = np.stack([np.ones(len(near)), *near.T, *(near**2).T, near[:, 0] * near[:, 1]], axis=1)
        fit = np.linalg.lstsq(bend, nearness, rcond=None)[0]
        x, y = (np.clip((axis - c) / h, -1.6, 1.6) for axis, c, h in zip((grid.x, grid.y), centre, half, strict=True))
        surface = fit[0] + fit[1] * x + fit[2] * y + fit[3] * x**2 + fit[4] * y**2 + fit[5] * x * y
        nose = self._landmarks[topology.NOSE_TIP]
        ridge = max(float(nearness[topology.NOSE_TIP] - bend[topology.NOSE_TIP] @ fit), 0.0)
        apart = np.hypot(grid.x - nose[0], grid.y - nose[1]) / (0.16 * self.unit)
        return np.asarray(surface + ridge * np.exp(-(apart**2)), np.float32)

    def _brows(self, grid: Grid) -> Field:
        """Brows and the forehead's lower half, upward."""
        lift = np.zeros_like(grid.x)
        for brow in _BROWS:
            points = self._landmarks[list(brow), :2]
            middle, reach = points.mean(axis=0), 0.62 * np.ptp(points[:, 0])
            above = np.where(grid.y < middle[1], 0.16, 0.055) * self.unit
            one = np.exp(-(((grid.x - middle[0]) / reach) ** 2) - ((grid.y - middle[1]) / above) ** 2)
            lift = np.maximum(lift, one)
        return np.asarray(-0.022 * self.unit * lift, np.float32)


def moved(fields: tuple[Field, Field], grid: Grid, pose: Pose) -> tuple[Field, Field]:
    """Where in the still picture the nodes of a grid come from."""
    return grid.x - combined(fields[0], pose), grid.y - combined(fields[1], pose)


def eased(values: NDArray[np.floating]) -> Field:
    """Clipped to 0 to 1, and smooth at both ends."""
    clipped = np.clip(values, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped), np.float32)


def _even(start: float, stop: float, limit: int) -> tuple[int, int]:
    return max(int(start) // 2 * 2, 0), min(int(stop) // 2 * 2, limit)
