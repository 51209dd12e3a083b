"""A coarse grid over a part of the picture: what changes smoothly is computed on it and drawn out to every pixel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


class Grid:
    """Nodes every `step` pixels over [x0, x1) x [y0, y1), and one beyond on each side."""

    def __init__(self, box: tuple[int, int, int, int], step: int) -> None:
        """`box` is (x0, y0, x1, y1), all even."""
        self.x0, self.y0, self.x1, self.y1 = box
        self._step = step
        columns, rows = (-(-(end - start) // step) + 2 for start, end in ((self.x0, self.x1), (self.y0, self.y1)))
        self._offset = (step - 1) / 2 - step  # of the first node from the first pixel
        x = self.x0 + self._offset + step * np.arange(columns)
        y = self.y0 + self._offset + step * np.arange(rows)
        self.x, self.y = (axis.astype(np.float32) for axis in np.meshgrid(x, y))

    def sample(self, fields: Field, x: Field, y: Field) -> Field:
        """Values of fields [rows, columns, n <= 4] on the nodes at other places, in pixels of the picture."""
        at_x = (x - np.float32(self.x0 + self._offset)) / np.float32(self._step)
        at_y = (y - np.float32(self.y0 + self._offset)) / np.float32(self._step)
        return np.asarray(cv2.remap(fields, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def drawn(self, fields: Field, scale: int = 1) -> Field:
        """Fields [rows, columns, n <= 4] for every pixel of the box, or for every second one with `scale` 2.

        A pixel of the half-size picture lies in the middle of its four.
        """
        step = self._step // scale
        rows, columns = fields.shape[:2]
        full = cv2.resize(fields, (columns * step, rows * step), interpolation=cv2.INTER_LINEAR)
        height, width = (self.y1 - self.y0) // scale, (self.x1 - self.x0) // scale
        return np.asarray(full[step : step + height, step : step + width])
