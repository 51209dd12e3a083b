"""Finding faces: BlazeFace, short range (Bazarevsky et al., 2019), on 128 x 128 pixels.

The network sees faces that fill a good part of its view, so pictures are looked at whole and, where that finds
nothing, in overlapping tiles of growing detail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime import providers

INPUT_PX = 128
MIN_SCORE = 0.5
_OVERLAP = 0.3  # intersection over union above which two hits are one face
_GRIDS = ((16, 2), (8, 6))  # cells along a side, anchors a cell
_TILE_LEVELS = (1, 2, 3)  # tiles along the short side


@dataclass(frozen=True)
class Hit:
    """A face, roughly. All in pixels of the picture."""

    score: float  # 0 to 1
    box: NDArray[np.float32]  # [4]: x0, y0, x1, y1
    points: NDArray[np.float32]  # [6, 2]: left eye, right eye, nose, mouth, left ear, right ear


class Detector:
    """The network, loaded."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        self._session = providers.open_session(model, "face-detector", threads)
        self._anchors = _anchors()

    def find(self, rgb: NDArray[np.uint8]) -> list[Hit]:
        """Faces in a picture (uint8 [height, width, 3]), the largest first."""
        hits: list[Hit] = []
        for level in _TILE_LEVELS:
            found = bool(hits)
            for x, y, side in _tiles(rgb.shape[1], rgb.shape[0], level):
                hits += self._look(rgb, x, y, side)
            if found:  # one level more than the first that finds any: others may be a little smaller
                break
        return sorted(_merge(hits), key=lambda hit: -_area(hit.box))

    def _look(self, rgb: NDArray[np.uint8], x: int, y: int, side: int) -> list[Hit]:
        """Faces in one square of the picture; what lies outside the picture is black."""
        scale = INPUT_PX / side
        move = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]], np.float32)
        part: NDArray[Any] = rgb[max(y, 0) : y + side, max(x, 0) : x + side]
        if scale < 1 and part.size:  # warpAffine does not average: shrink first
            size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
            view = np.zeros((INPUT_PX, INPUT_PX, 3), np.uint8)
            top, left = round(max(-y, 0) * scale), round(max(-x, 0) * scale)
            part = part[: INPUT_PX - top, : INPUT_PX - left]
            view[top : top + part.shape[0], left : left + part.shape[1]] = part
        else:
            view = cv2.warpAffine(rgb, move, (INPUT_PX, INPUT_PX)).astype(np.uint8)
        offsets, logits = self._session.run(["regressors", "classificators"], {"input": _normalised(view)})
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -100, 100)))
        keep = scores >= MIN_SCORE
        values = offsets[0, keep].reshape(-1, 8, 2) / INPUT_PX
        centres, sizes, points = values[:, 0] + self._anchors[keep], values[:, 1], values[:, 2:]
        points = points + self._anchors[keep][:, None]
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
        corner = np.array([x, y], np.float32)
        return [
            Hit(float(score), box * side + np.tile(corner, 2), spots * side + corner)
            for score, box, spots in zip(scores[keep], boxes, points, strict=True)
        ]


def _normalised(view: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (view.astype(np.float32) / 127.5 - 1)[None]


def _anchors() -> NDArray[np.float32]:
    """Centres of the 896 anchors, 0 to 1, float32 [896, 2]."""
    grids = []
    for cells, each in _GRIDS:
        rows, columns = np.mgrid[0:cells, 0:cells]
        centres = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) / cells
        grids.append(np.repeat(centres, each, axis=0))
    return np.concatenate(grids).astype(np.float32)


def _tiles(width: int, height: int, level: int) -> Iterator[tuple[int, int, int]]:
    """Squares (x, y, side) over the picture: one around all of it, then ever smaller ones that overlap by half."""
    if level == 1:
        side = max(width, height)
        yield (width - side) // 2, (height - side) // 2, side
        return
    side = round(min(width, height) / (level - 1))
    across, down = (max(int(np.ceil(2 * length / side)) - 1, 1) for length in (width, height))
    for row in range(down):
        for column in range(across):
            x = (width - side) * column // max(across - 1, 1)
            y = (height - side) * row // max(down - 1, 1)
            yield x, y, side


def _area(box: NDArray[np.float32]) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    shared = np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])])
    common = _area(shared) if (shared[2:] > shared[:2]).all() else 0.0
    return common / max(_area(one) + _area(other) - common, 1e-6)


def _merge(hits: list[Hit]) -> list[Hit]:
    """Hits of the same face become one, averaged by score."""
    left = sorted(hits, key=lambda hit: -hit.score)
    faces = []
    while left:
        same = [hit for hit in left if _overlap(left[0].box, hit.box) > _OVERLAP]
        weights = np.array([hit.score for hit in same])
        box = np.average([hit.box for hit in same], axis=0, weights=weights).astype(np.float32)
        points = np.average([hit.points for hit in same], axis=0, weights=weights).astype(np.float32)
        faces.append(Hit(same[0].score, box, points))
        left = [hit for hit in left if not any(hit is taken for taken in same)]
    return faces
