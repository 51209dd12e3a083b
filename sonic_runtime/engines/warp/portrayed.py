"""A portrait that can be posed: all that is computed once, and one frame from it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp import head as heads
from sonic_runtime.engines.warp import planes
from sonic_runtime.engines.warp.eye import LEFT_EYE, RIGHT_EYE, Eye
from sonic_runtime.engines.warp.framing import Framed
from sonic_runtime.engines.warp.grid import Field, Grid
from sonic_runtime.engines.warp.head import Head, Pose
from sonic_runtime.engines.warp.mouth import Mouth, Shape

_COARSE, _FINE = 8, 4  # pixels between nodes: of the head, of the mouth
_NO_MAP: Any = None  # the first map has both coordinates


class Portrayed:
    """The still picture, its displacement fields, and the frame that is written again and again."""

    def __init__(self, framed: Framed) -> None:
        picture = planes.from_rgb(framed.rgb)
        self._still = planes.Planes(picture)
        self._still_chroma = self._still.chroma()
        self._out = planes.Planes(picture)
        self._eyes = [Eye(framed.landmarks, lids, picture) for lids in (LEFT_EYE, RIGHT_EYE)]
        self._blink = 0.0
        self._head = Head(framed.landmarks, picture.shape[:2])
        self._mouth = Mouth(framed.landmarks, picture)
        self._grids = Grid(self._head.box, _COARSE), Grid(self._mouth.box, _FINE)
        self._head_fields = [self._head.fields(grid) for grid in self._grids]
        self._mouth_fields = [self._mouth.fields(grid) for grid in self._grids]

    def frame(self, pose: Pose, shape: Shape, blink: float) -> NDArray[np.uint8]:
        """Planar yuv420p, uint8 [height * 3 // 2, width]; the same memory every time."""
        self._close_eyes(blink)
        grid = self._grids[0]
        displaced, x, y = self._displaced(0, pose, shape)
        places = np.stack(self._mouth.skin_map(displaced, x, y), axis=-1)
        luma = self._sampled(self._still.luma, grid.drawn(places))
        chroma = self._sampled(self._still_chroma, grid.drawn((places - np.float32(0.5)) / np.float32(2), scale=2))
        self._out.write_planes(luma, chroma, grid.x0, grid.y0)
        grid = self._grids[1]
        displaced, x, y = self._displaced(1, pose, shape)
        sources = grid.drawn(np.stack(self._mouth.sources(displaced, x, y), axis=-1))
        self._out.write(self._mouth.render(sources, shape), grid.x0, grid.y0)
        return self._out.data

    def _displaced(self, number: int, pose: Pose, shape: Shape) -> tuple[Field, Field, Field]:
        """The mouth's displacements on a grid, and where in the still picture its nodes come from."""
        grid = self._grids[number]
        x, y = heads.moved(self._head_fields[number], grid, pose)
        return grid.sample(self._mouth.summed(self._mouth_fields[number], shape), x, y), x, y

    def _close_eyes(self, blink: float) -> None:
        if blink == self._blink:
            return
        self._blink = blink
        for eye in self._eyes:
            self._still.write(eye.render(blink), eye.x0, eye.y0)
        self._still_chroma = self._still.chroma()

    @staticmethod
    def _sampled(plane: NDArray[np.uint8], places: Field) -> NDArray[np.uint8]:
        return np.asarray(cv2.remap(plane, places, _NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
