"""A coarse grid over a part of the picture: what changes smoothly is computed on it and drawn out to every pixel."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def combined(fields: Field, amounts: Iterable[float]) -> Field:
    """The sum of fields [n, rows, columns, ...], each times its amount; without the threads of a matrix product."""
    first, *others = amounts
    total: Field = fields[0] * np.float32(first)
    for field, amount in zip(fields[1:], others, strict=True):
        if amount:
            cv2.scaleAdd(field, float(amount), total, dst=total)
    return total


class Grid:
    """Nodes every `step` pixels over [x0, x1) x [y0, y1), and one beyond on each side."""

    def __init__(self, box: tuple[int, int, int, int], step: int) -> None:
        """`box` is (x0, y0, x1, y1), all even."""
        self.x0, self.y0, self.x1, self.y1 = box
        self.step = step
        columns, rows = (-(-(end - start) // step) + 2 for start, end in ((self.x0, self.x1), (self.y0, self.y1)))
        self._offset = (step - 1) / 2 - step  # of the first node from the first pixel
        x = self.x0 + self._offset + step * np.arange(columns)
        y = self.y0 + self._offset + step * np.arange(rows)
        self.x, self.y = (axis.astype(np.float32) for axis in np.meshgrid(x, y))

    def sample(self, fields: Field, x: Field, y: Field) -> Field:
        """Values of fields [rows, columns, n <= 4] on the nodes at other places, in pixels of the picture."""
        at_x = (x - np.float32(self.x0 + self._offset)) / np.float32(self.step)
        at_y = (y - np.float32(self.y0 + self._offset)) / np.float32(self.step)
        return np.asarray(cv2.remap(fields, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def reached(self, nodes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Nodes with a neighbour among these: where they have a say."""
        return cv2.dilate(nodes.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0

    def around(self, nodes: NDArray[np.bool_]) -> tuple[slice, slice]:
        """Rows and columns of the box's pixels that are nearest to these nodes, of which one at least is True."""
        found = []
        for axis, pixels in ((1, self.y1 - self.y0), (0, self.x1 - self.x0)):
            at = np.clip(np.flatnonzero(nodes.any(axis=axis)), 1, nodes.shape[1 - axis] - 2)  # none is wholly outside
            found.append(slice((int(at[0]) - 1) * self.step, min(int(at[-1]) * self.step, pixels)))
        return found[0], found[1]

    def drawn(self, values: Field, scale: int = 1, into: Field | None = None) -> Field:
        """Values [rows, columns] for every pixel of the box, or for every second one with `scale` 2.

        A pixel of the half-size picture lies in the middle of its four. `into` is memory from `canvas`.
        """
        step = self.step // scale
        rows, columns = values.shape
        full = cv2.resize(values, (columns * step, rows * step), dst=into, interpolation=cv2.INTER_LINEAR)
        height, width = (self.y1 - self.y0) // scale, (self.x1 - self.x0) // scale
        return np.asarray(full[step : step + height, step : step + width])

    def canvas(self, scale: int = 1) -> Field:
        """Memory for `drawn`, so that no frame needs new one."""
        rows, columns = self.x.shape
        return np.empty((rows * self.step // scale, columns * self.step // scale), np.float32)
