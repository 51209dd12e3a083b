"""The mouth: displacement fields of lips, jaw and cheeks, and what is seen between the lips.

Skin above the mouth's line follows the upper fields, skin below it the lower ones; beyond the corners both agree. For
a pixel near the mouth both are asked where it comes from: skin of the upper lip, skin of the lower one, or neither,
which is the inside. So lips meet, part and cross without a seam whatever the fields are. Where skin comes from and how
far past the lips' edges a pixel lies is asked at the nodes of a grid; only the choice between them is made per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp import planes
from sonic_runtime.engines.warp.cavity import Cavity, Inside
from sonic_runtime.engines.warp.grid import Field, Grid, combined
from sonic_runtime.engines.warp.head import eased
from sonic_runtime.engines.warp.level import Level, box_around
from sonic_runtime.faces import topology

_INNER_TOP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
_INNER_BOTTOM = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
    150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
_WIDEST = 0.22  # opening at 1, in distances between the outer corners of the eyes
_RAISED = 0.17  # the upper lip's part of it
_JAW_SHARE = 0.9  # of the lower lip's way that the jaw makes
_MEET = 0.42  # where parted lips meet when they close, between the upper and the lower one
_SPREAD, _ROUND = 0.10, 0.24  # how much wider or narrower the mouth becomes
_NARROWS = 0.10  # how much narrower a mouth becomes that opens by 1
_PRESS = 0.022  # how far pressed lips go past each other, in mouth widths
_TUCK = 0.07  # how far the lower lip rises to the upper teeth, in mouth widths
_BOX = (-0.82, -0.5, 0.82, 0.85)  # around the mouth, in mouth widths
_SOFT_PX = 1.5
_LEAST_GAP_PX = 0.5
_STEP_PX = 4  # between the nodes of the grid
_PER_PX = 4  # entries of the tables for a pixel


@dataclass(frozen=True)
class Shape:
    """One frame's mouth: `opening` 0 to 1.25, `width` -1 rounded to 1 spread, the others 0 to 1."""

    opening: float
    width: float
    tuck: float
    press: float
    tongue: float


class Mouth:
    """A mouth of a portrait: its lines and its fields, which do not change."""

    def __init__(self, landmarks: NDArray[np.float32], picture: NDArray[np.uint8]) -> None:
        points = landmarks[:, :2].astype(np.float64)
        corners = points[[topology.MOUTH_LEFT, topology.MOUTH_RIGHT]]
        along = corners[1] - corners[0]
        self.width = float(np.hypot(*along))
        eyes = points[topology.RIGHT_EYE_OUTER] - points[topology.LEFT_EYE_OUTER]
        self._widest = _WIDEST * float(np.hypot(*eyes))
        self.level = Level(corners.mean(axis=0), float(np.arctan2(along[1], along[0])))
        u, v = self.level.of(*points.astype(np.float32).T)
        self._points = np.stack([u, v], axis=1)
        self._chin, self._nose = float(v[topology.CHIN]), float(v[topology.NOSE_TIP])
        self._picture = picture
        self._set_lines()
        self._outside = _outside(points[list(_OVAL)], picture.shape[1:])
        left, top, right, bottom = (self.width * part for part in _BOX)
        self.grid = Grid(box_around(self.level, (left, top, right, bottom), picture.shape[1:]), _STEP_PX)
        self._fields = self.fields(self.grid)
        self._chroma = [planes.halved(plane) for plane in picture[1:]]
        self._canvases = [self.grid.canvas() for _ in range(7)]
        self._cavity = Cavity(points, picture, self.width)

    def _set_lines(self) -> None:
        """The inner edges of the lips by u, as tables."""
        self._zero = int(1.6 * self.width * _PER_PX) + 2
        u = np.arange(-self._zero, self._zero + 1, dtype=np.float32) / np.float32(_PER_PX)
        edges = []
        for contour in (_INNER_TOP, _INNER_BOTTOM):
            line = self._points[list(contour)]
            line = line[np.argsort(line[:, 0])]
            edges.append(np.interp(u, line[:, 0], line[:, 1]).astype(np.float32))
        self._top, self._bottom = np.minimum(*edges), np.maximum(*edges)
        inner = self._points[[78, 308], 0]
        middle, half = float(inner.mean()), max(float(inner[1] - inner[0]) / 2, 1.0)
        self._arch = (np.clip(1 - ((u - middle) / half) ** 2, 0, 1) ** np.float32(0.8)).astype(np.float32)

    def fields(self, grid: Grid) -> Field:
        """Displacements on a grid for each part of a Shape, [5, rows, columns, 3]: along u, and v above and below.

        The parts: the width's scaling, rest (lips that the portrait shows parted come together), opening, tuck, press.
        """
        u, v = self.level.of(grid.x, grid.y)
        width = np.float32(self.width)
        at = self._entry(u)
        top, bottom, arch = self._top[at], self._bottom[at], self._arch[at]
        meet = top + np.float32(_MEET) * (bottom - top)
        reach = 0.38 * width
        under_nose = eased((v - 0.82 * self._nose) / (-0.5 * self._nose))
        above = np.exp(np.minimum(v - top, 0) / reach) * under_nose
        most = self._widest * arch * (1 - _RAISED)
        below = np.exp(-np.maximum(v - bottom - 0.5 * most, 0) / reach)
        within = self._within(grid)
        side = eased(1 - (np.abs(u) / width - 0.55) / 0.95) * within
        jaw = side * eased(1 - (v - self._chin) / (0.75 * self._chin)) * eased(1 + v / (0.35 * width))
        near = np.exp(-((u / (0.85 * width)) ** 2) - (v / (0.7 * width)) ** 2)
        fall = self._widest * (1 - _RAISED)
        nothing = np.zeros_like(u)
        parts = [
            (u * near, nothing, nothing),
            (nothing, (meet - top) * above, (meet - bottom) * below),
            (
                nothing,
                -_RAISED * self._widest * arch * above,
                fall * (_JAW_SHARE * jaw + (arch - _JAW_SHARE * side) * below),
            ),
            (nothing, nothing, -_TUCK * width * arch * below),
            (nothing, _PRESS * width * arch * above, -_PRESS * width * arch * below),
        ]
        return np.stack([np.stack(part, axis=-1) for part in parts]).astype(np.float32)

    def displaced(self, grid: Grid, fields: Field, shape: Shape, x: Field, y: Field) -> Field:
        """The displacements of one frame at places of the still picture, [rows, columns, 3].

        Along u, along v above the mouth's line, along v below it. `fields` are those of the grid.
        """
        return grid.sample(combined(fields, self._amounts(shape)), x, y)

    @staticmethod
    def _amounts(shape: Shape) -> tuple[float, ...]:
        opening = shape.opening * (1 - 0.75 * shape.tuck)
        wider = (_SPREAD if shape.width > 0 else _ROUND) * shape.width - _NARROWS * opening
        return wider, 1, opening, shape.tuck, shape.press

    def skin(self, displaced: Field, x: Field, y: Field) -> tuple[Field, Field]:
        """Where skin comes from, for places of the still head away from the lips."""
        u, v = self.level.of(x, y)
        above = v < self._top[self._entry(u)]
        return self.level.picture(u - displaced[..., 0], v - np.where(above, displaced[..., 1], displaced[..., 2]))

    def write(self, out: planes.Planes, shape: Shape, x: Field, y: Field) -> None:
        """Write the box of the grid, whose nodes come from x, y of the still picture when the mouth rests."""
        displaced = self.displaced(self.grid, self._fields, shape, x, y)
        u, still = self.level.of(x, y)
        u -= displaced[..., 0]
        above, below = still - displaced[..., 1], still - displaced[..., 2]
        at = self._entry(u)
        past_top, past_bottom = above - self._top[at], self._bottom[at] - below
        part = self._around_gap(past_top, past_bottom)
        nodes = (*self.level.picture(u, above), below - above, past_top, past_bottom, u, still)
        x, y, apart, past_top, past_bottom, u, still = (
            self.grid.drawn(values, into=canvas) for values, canvas in zip(nodes, self._canvases, strict=True)
        )
        apart *= past_bottom < past_top  # skin of the lower lip
        self._write_skin(out, *self.level.lowered(x, y, apart))
        if part is not None:
            at = self._entry(u[part])
            seen = Inside(
                u=u[part],
                v=still[part],
                from_top=past_top[part],
                from_bottom=past_bottom[part],
                own_top=self._top[at],
                own_bottom=self._bottom[at],
                arch=self._arch[at],
            )
            self._write_inside(out, seen, shape.tongue, self.grid.x0 + part[1].start, self.grid.y0 + part[0].start)

    def _around_gap(self, past_top: Field, past_bottom: Field) -> tuple[slice, slice] | None:
        """Rows and columns of the box's pixels that hold all of what is seen between the lips, if anything is."""
        slack = -(_SOFT_PX + 2 * self.grid.step)
        near = (past_top > slack) & (past_bottom > slack) & (past_top + past_bottom > _LEAST_GAP_PX)
        return self.grid.around(self.grid.reached(near)) if near.any() else None

    def _write_skin(self, out: planes.Planes, x: Field, y: Field) -> None:
        grid = self.grid
        planes.sample(self._picture[0], x, y, out.luma[grid.y0 : grid.y1, grid.x0 : grid.x1])
        half_x, half_y = (
            axis[::2, ::2] * np.float32(0.5) for axis in (x, y)
        )  # half a pixel to its middle and half a pixel back
        for still, plane in zip(self._chroma, out.chroma, strict=True):
            part = plane[grid.y0 // 2 : grid.y1 // 2, grid.x0 // 2 : grid.x1 // 2]
            planes.sample(still, half_x, half_y, part)

    def _write_inside(self, out: planes.Planes, seen: Inside, tongue: float, x: int, y: int) -> None:
        """Lay what is between the lips over the skin at x, y."""
        places = self.level.picture(seen.u, seen.v)
        own = np.stack([planes.sample(plane, *places) for plane in self._picture])
        alpha = np.clip(seen.from_top / _SOFT_PX + 0.5, 0, 1) * np.clip(seen.from_bottom / _SOFT_PX + 0.5, 0, 1)
        alpha *= np.clip((seen.from_top + seen.from_bottom) / 3 - 0.2, 0, 1)
        out.blend(self._cavity.colours(seen, tongue, own), alpha, x, y)

    def _entry(self, u: Field) -> NDArray[np.int32]:
        """The entry of the tables at u."""
        at = np.rint(u * np.float32(_PER_PX)).astype(np.int32)
        return np.asarray(np.clip(at, -self._zero, self._zero) + self._zero)

    def _within(self, grid: Grid) -> Field:
        """1 on the face and the neck under it, fading outside the face's outline, so that the background stays."""
        away = _sampled_quarter(self._outside, grid)
        return eased(1 - away / (0.32 * self.width))


def _outside(outline: NDArray[np.float64], size: tuple[int, int]) -> Field:
    """Distance of each pixel from the face's outline, at a quarter of the size; 0 within it and below the chin."""
    mask = np.ones((size[0] // 4 + 1, size[1] // 4 + 1), np.uint8)
    face = cv2.convexHull(outline.astype(np.float32) / 4).astype(np.int32)
    cv2.fillConvexPoly(mask, face, 0)
    lowest = face[:, 0, 1].argmax()
    left, right, bottom = face[:, 0, 0].min(), face[:, 0, 0].max(), int(face[lowest, 0, 1])
    third = (right - left) // 5
    mask[max(bottom - third, 0) :, max(left + third, 0) : right - third] = 0  # the neck
    return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, 5) * 4, np.float32)


def _sampled_quarter(quarter: Field, grid: Grid) -> Field:
    """A quarter-size picture at the nodes of a grid."""
    return np.asarray(cv2.remap(quarter, grid.x / 4, grid.y / 4, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
