"""A portrait that can be posed: all that is computed once, and one frame from it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp import head as heads
from sonic_runtime.engines.warp import planes
from sonic_runtime.engines.warp.eye import LEFT_EYE, RIGHT_EYE, Eye
from sonic_runtime.engines.warp.framing import Framed
from sonic_runtime.engines.warp.grid import Field, Grid
from sonic_runtime.engines.warp.head import Head, Pose
from sonic_runtime.engines.warp.mouth import Mouth, Shape

Plane = NDArray[np.uint8]
_STEP_PX = 8  # between the nodes of the head's grid


class Portrayed:
    """The still picture, its displacement fields, and the frame that is written again and again."""

    def __init__(self, framed: Framed) -> None:
        self.cautions = framed.cautions
        self.size = framed.rgb.shape[1], framed.rgb.shape[0]  # width, height
        picture = planes.from_rgb(framed.rgb)
        self._still, self._out = planes.Planes(picture), planes.Planes(picture)
        self._eyes = [Eye(framed.landmarks, lids, picture) for lids in (LEFT_EYE, RIGHT_EYE)]
        self._blink = 0.0
        head = Head(framed.landmarks, framed.rgb.shape[:2])
        self._mouth = Mouth(framed.landmarks, picture)
        self._grid = Grid(head.box, _STEP_PX)
        self._head_fields, self._mouth_fields = head.fields(self._grid), self._mouth.fields(self._grid)
        self._head_fields_at_mouth = head.fields(self._mouth.grid)
        self._canvases = {scale: [self._grid.canvas(scale) for _ in range(2)] for scale in (1, 2)}

    def frame(self, pose: Pose, shape: Shape, blink: float) -> NDArray[np.uint8]:
        """Planar yuv420p, uint8 [height * 3 // 2, width]; the same memory every time."""
        self._close_eyes(blink)
        self._write_head(pose, shape)
        self._mouth.write(self._out, shape, *heads.moved(self._head_fields_at_mouth, self._mouth.grid, pose))
        return self._out.data

    def _close_eyes(self, blink: float) -> None:
        if blink == self._blink:
            return
        self._blink = blink
        for eye in self._eyes:
            self._still.write(eye.render(blink), eye.x0, eye.y0)

    def _write_head(self, pose: Pose, shape: Shape) -> None:
        x, y = heads.moved(self._head_fields, self._grid, pose)
        x, y = self._mouth.skin(self._mouth.displaced(self._grid, self._mouth_fields, shape, x, y), x, y)
        self._write_planes([(self._still.luma, self._out.luma)], x, y, 1)
        chroma = zip(self._still.chroma, self._out.chroma, strict=True)
        half = np.float32(0.5)
        self._write_planes(chroma, (x - half) * half, (y - half) * half, 2)

    def _write_planes(self, pairs: Iterable[tuple[Plane, Plane]], x: Field, y: Field, scale: int) -> None:
        """Fill the box in the second of each pair from the first, at x, y of the nodes."""
        grid = self._grid
        x, y = (grid.drawn(at, scale, into) for at, into in zip((x, y), self._canvases[scale], strict=True))
        box = np.s_[grid.y0 // scale : grid.y1 // scale, grid.x0 // scale : grid.x1 // scale]
        for still, out in pairs:
            planes.sample(still, x, y, out[box])
