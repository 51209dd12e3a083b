"""One eye of a portrait, whose upper lid can close."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp import planes
from sonic_runtime.engines.warp.grid import Field
from sonic_runtime.engines.warp.level import Level, box_around

LEFT_EYE = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133))
RIGHT_EYE = ((263, 466, 388, 387, 386, 385, 384, 398, 362), (263, 249, 390, 373, 374, 380, 381, 382, 362))
_MEET = 0.85  # how far down the lids meet
Lids = tuple[tuple[int, ...], tuple[int, ...]]


class Eye:
    """The upper lid's skin follows its edge down, less the farther above it is; everything below stays."""

    def __init__(self, landmarks: NDArray[np.float32], lids: Lids, picture: NDArray[np.uint8]) -> None:
        points = landmarks[:, :2]
        ends = points[[lids[0][0], lids[0][-1]]]
        ends = ends[np.argsort(ends[:, 0])]
        along = ends[1] - ends[0]
        width = float(np.hypot(*along))
        self._level = Level(ends.mean(axis=0), float(np.arctan2(along[1], along[0])))
        top, bottom = (np.stack(self._level.of(*points[list(lid)].T), axis=1) for lid in lids)
        self._gap = max(float((bottom[:, 1] - top[:, 1]).max()), 1.0)
        edges = (-0.62 * width, -3.2 * self._gap, 0.62 * width, 1.2 * self._gap)
        self.x0, self.y0, x1, y1 = box_around(self._level, edges, picture.shape[1:])
        self._source = picture[:, self.y0 : y1, self.x0 : x1].copy()
        rows, columns = np.mgrid[self.y0 : y1, self.x0 : x1].astype(np.float32)
        self._u, self._v = self._level.of(columns, rows)
        self._top, self._bottom = (self._edge(lid) for lid in (top, bottom))
        border = np.clip((0.60 * width - np.abs(self._u)) / (0.1 * width), 0, 1)
        self._rest = (border * np.clip((self._v + 3.1 * self._gap) / self._gap, 0, 1)).astype(np.float32)

    def _edge(self, lid: NDArray[np.float32]) -> Field:
        """v of a lid at every u."""
        order = np.argsort(lid[:, 0])
        return np.asarray(np.interp(self._u, lid[order, 0], lid[order, 1]), np.float32)

    def render(self, blink: float) -> NDArray[np.uint8]:
        """The part of the picture at x0, y0 with the eye in it, uint8 [3, height, width].

        `blink` 0 is as in the portrait, 1 closed.
        """
        drop = np.maximum(self._bottom - self._top, 0) * np.float32(_MEET * blink)
        edge = self._top + drop
        reach = np.float32(1.5 * self._gap)
        moved = self._v - drop * np.exp(np.minimum(self._v - edge, 0) / reach) * self._rest
        x, y = self._level.picture(self._u, np.where(self._v < edge, moved, self._v))
        x, y = x - np.float32(self.x0), y - np.float32(self.y0)
        return np.stack([planes.sample(plane, x, y) for plane in self._source])
