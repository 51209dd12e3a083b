"""One eye of a portrait, whose upper lid can close."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp.patch import Patch

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
        width, roll = float(np.hypot(*along)), float(np.arctan2(along[1], along[0]))
        origin = ends.mean(axis=0)
        level = Patch(origin, roll, (0, 0, 1, 1), picture.shape[:2]).of_picture(points)
        top, bottom = (level[list(lid)] for lid in lids)
        self._gap = max(float((bottom[:, 1] - top[:, 1]).max()), 1.0)
        self.patch = Patch(
            origin, roll, (-0.62 * width, -3.2 * self._gap, 0.62 * width, 1.2 * self._gap), picture.shape[:2]
        )
        self._source = self.patch.cut(picture).copy()
        u = self.patch.u
        self._top, self._bottom = (
            np.interp(u, lid[np.argsort(lid[:, 0]), 0], lid[np.argsort(lid[:, 0]), 1]).astype(np.float32)
            for lid in (top, bottom)
        )
        border = np.clip((0.60 * width - np.abs(u)) / (0.1 * width), 0, 1)
        self._rest = (border * np.clip((self.patch.v + 3.1 * self._gap) / self._gap, 0, 1)).astype(np.float32)

    def render(self, blink: float) -> NDArray[np.uint8]:
        """The patch for one frame; `blink` 0 is as in the portrait, 1 closed."""
        v = self.patch.v
        drop = np.maximum(self._bottom - self._top, 0) * np.float32(_MEET * blink)
        edge = self._top + drop
        reach = np.float32(1.5 * self._gap)
        moved = v - drop * np.exp(np.minimum(v - edge, 0) / reach) * self._rest
        at = np.where(v < edge, moved, v).astype(np.float32)
        x, y = self.patch.maps(self.patch.u, at)
        return cv2.remap(self._source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)
