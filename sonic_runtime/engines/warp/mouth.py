"""The mouth of one portrait: lips that part, close, spread and round, a jaw that carries the chin, and what is between.

Everything is a displacement of the portrait in the level patch around the mouth. Above the lips' line pixels follow the
upper lip, below it the lower lip and the jaw; both follow less the farther they are. Where the lips part, the inside
shows: the portrait's own where its lips are parted, a shaded one elsewhere. Teeth stay with the skull above, with the
jaw below.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp import planes
from sonic_runtime.engines.warp.patch import Field, Patch
from sonic_runtime.faces import topology

_INNER_TOP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
_INNER_BOTTOM = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_WIDEST = 0.50  # opening at 1, in mouth widths
_RAISED = 0.22  # the upper lip's part of it
_JAW_SHARE = 0.85  # of the lower lip's way that the jaw makes
_MEET = 0.45  # where parted lips meet when they close, between the upper and the lower one
_CHEEK_LUMA = 150.0  # of the face that the inside's colours are made for
_TINT = 0.4  # how much of the skin's colour the light gives to the teeth
_SOFT_PX = 1.3


class Mouth:
    """Fields that do not change, computed once."""

    def __init__(self, landmarks: NDArray[np.float32], picture: NDArray[np.uint8]) -> None:
        points = landmarks[:, :2]
        corners = points[[topology.MOUTH_LEFT, topology.MOUTH_RIGHT]]
        along = corners[1] - corners[0]
        self.width = float(np.hypot(*along))
        roll = float(np.arctan2(along[1], along[0]))
        origin = corners.mean(axis=0)
        level = Patch(origin, roll, (0, 0, 1, 1), picture.shape[:2]).of_picture(points)
        chin, nose = float(level[topology.CHIN, 1]), float(level[topology.NOSE_TIP, 1])
        reach = 1.7 * self.width
        self.patch = Patch(origin, roll, (-reach, 0.8 * nose, reach, 1.75 * chin), picture.shape[:2])
        self._source = self.patch.cut(picture).copy()
        self._set_lines(level)
        self._set_fields(chin, nose)
        cheeks = points[[50, 280]].astype(int)
        skin = np.mean([picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0) for x, y in cheeks], axis=0)
        self._light = np.float32(np.clip(skin[0] / _CHEEK_LUMA, 0.45, 1.2))
        self._white = planes.colour(222, 212, 200)
        self._white[1:] += np.float32(_TINT) * (skin[1:] - self._white[1:])

    def _set_lines(self, level: NDArray[np.float64]) -> None:
        """The inner edges of the lips by u, as tables with one entry a pixel."""
        self._zero = int(np.ceil(np.abs(self.patch.u).max() * 1.25)) + 2
        u = np.arange(-self._zero, self._zero + 1, dtype=np.float32)
        edges = []
        for contour in (_INNER_TOP, _INNER_BOTTOM):
            line = level[list(contour)]
            line = line[np.argsort(line[:, 0])]
            edges.append(np.interp(u, line[:, 0], line[:, 1]).astype(np.float32))
        top, bottom = edges
        self._top, self._bottom = np.minimum(top, bottom), np.maximum(top, bottom)
        inner = level[[78, 308], 0]
        middle, half = float(inner.mean()), max(float(inner[1] - inner[0]) / 2, 1.0)
        self._arch = np.clip(1 - ((u - middle) / half) ** 2, 0, 1) ** np.float32(0.75)
        self._meet = self._top + np.float32(_MEET) * (self._bottom - self._top)

    def _set_fields(self, chin: float, nose: float) -> None:
        u, v, width = self.patch.u, self.patch.v, np.float32(self.width)
        near = np.exp(-((u / (0.85 * width)) ** 2) - (v / (0.75 * width)) ** 2)
        self._near = near.astype(np.float32)
        self._side = _eased(1 - (np.abs(u) / width - 0.55) / 0.95)
        self._jaw = self._side * _eased(1 - (v - chin) / (0.7 * chin)) * _eased(1 + (v + 0.1 * width) / (0.5 * width))
        self._under_nose = _eased((v - 0.8 * nose) / (-0.45 * nose))

    def render(self, opening: float, width: float, tuck: float) -> NDArray[np.uint8]:
        """The patch for one frame. `opening` 0 to 1.25, `width` -1 rounded to 1 spread, `tuck` 0 to 1."""
        opening = opening * (1 - 0.75 * tuck)
        u = self.patch.u * (1 - np.float32(0.13 * width if width > 0 else 0.22 * width) * self._near)
        index = np.clip(np.rint(u), -self._zero, self._zero).astype(np.int32) + self._zero
        gap = np.float32(opening * _WIDEST * self.width) * self._arch
        top_line, bottom_line = self._meet - np.float32(_RAISED) * gap, self._meet + np.float32(1 - _RAISED) * gap
        bottom_line = bottom_line - np.float32(0.06 * self.width * tuck) * self._arch
        top, bottom = top_line[index], bottom_line[index]
        v = self._follow(index, top, bottom, top_line, bottom_line, opening)
        skin = cv2.remap(self._source, *self.patch.maps(u, v), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = self._between(top, bottom)
        if not inside.any():
            return skin.astype(np.uint8)
        return self._with_inside(skin.astype(np.uint8), u, index, top, bottom, inside)

    def _follow(
        self, index: NDArray[np.int32], top: Field, bottom: Field, top_line: Field, bottom_line: Field, opening: float
    ) -> Field:
        """Where each pixel's v comes from."""
        v, reach = self.patch.v, np.float32(0.38 * self.width)
        lift = (top_line - self._top)[index] * np.exp(np.minimum(v - top, 0) / reach) * self._under_nose
        fall = np.float32(opening * (1 - _RAISED) * _WIDEST * self.width * _JAW_SHARE)
        lip = (bottom_line - self._bottom)[index] - fall * self._side
        lowered = fall * self._jaw + lip * np.exp(-np.maximum(v - bottom, 0) / reach) * self._side
        moved: NDArray[Any] = np.where(v < (top + bottom) / 2, v - lift, v - lowered)
        return moved.astype(np.float32)

    def _between(self, top: Field, bottom: Field) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (self.patch.v > top - 1) & (self.patch.v < bottom + 1) & (bottom - top > 0.7)
        return found

    def _with_inside(
        self,
        skin: NDArray[np.uint8],
        u: Field,
        index: NDArray[np.int32],
        top: Field,
        bottom: Field,
        inside: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        u, v, top, bottom, index = u[box], self.patch.v[box], top[box], bottom[box], index[box]
        colours = self._cavity(u, v, top, bottom, self._meet[index], self._arch[index])
        top0, bottom0 = self._top[index], self._bottom[index]
        own = cv2.remap(self._source, *self.patch.maps(u, v), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        shown = np.clip((v - top0 - 1) / 2.5, 0, 1) * np.clip((bottom0 - v - 1) / 3, 0, 1)
        colours += shown[..., None] * (own.astype(np.float32) - colours)
        edge = np.float32(_SOFT_PX)
        alpha = np.clip((v - top) / edge + 0.5, 0, 1) * np.clip((bottom - v) / edge + 0.5, 0, 1)
        alpha *= np.clip((bottom - top) / 2.0, 0, 1)
        part = skin[box].astype(np.float32)
        skin[box] = np.rint(part + alpha[..., None] * (colours - part)).astype(np.uint8)
        return skin

    def _cavity(self, u: Field, v: Field, top: Field, bottom: Field, meet: Field, arch: Field) -> Field:
        """What a mouth looks like inside, float32 [height, width, 3]: throat, tongue, teeth above and below."""
        width = np.float32(self.width)
        gap = np.maximum(bottom - top, 1)
        depth = np.clip(np.minimum(v - top, bottom - v) / (0.12 * width), 0, 1)
        dark, rim = planes.colour(28, 9, 10), planes.colour(105, 48, 46)
        out: NDArray[Any] = rim + depth[..., None] * (dark - rim)
        tongue = _eased((v - (bottom - 0.42 * gap)) / (0.12 * width)) * _eased((gap / width - 0.12) / 0.12)
        tongue *= _eased(1 - (np.abs(u) / width - 0.12) / 0.16)
        out += (0.8 * tongue)[..., None] * (planes.colour(150, 78, 76) - out)
        below = _eased((v - (bottom - 0.055 * width)) / 2.0) * _eased(1 - (np.abs(u) / width - 0.16) / 0.12)
        out += (0.45 * below * _eased((gap / width - 0.16) / 0.1))[..., None] * (planes.colour(178, 166, 152) - out)
        edge = meet + width * (0.085 - 0.22 * (u / width) ** 2)
        shade = (0.55 + 0.45 * np.clip((v - top) / (0.07 * width), 0, 1)) * (0.7 + 0.3 * arch)
        grooves = 1 - 0.10 * np.exp(-(((np.abs(u) / width * 11.5) % 1 - 0.5) ** 2) / 0.006)
        teeth = _eased((edge - v) / 2.5 + 0.5) * _eased(1 - (np.abs(u) / width - 0.27) / 0.1)
        teeth *= _eased((gap / width - 0.02) / 0.05)  # lips that hardly part show none
        chroma = (np.full_like(u, value) for value in self._white[1:])
        lit = np.stack([self._white[0] * shade * grooves, *chroma], axis=-1)
        out += teeth[..., None] * (lit - out)
        out[..., 0] = 16 + (out[..., 0] - 16) * self._light
        colours: Field = out.astype(np.float32)
        return colours


def _eased(values: NDArray[Any]) -> Field:
    clipped: NDArray[Any] = np.clip(values, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped), np.float32)
