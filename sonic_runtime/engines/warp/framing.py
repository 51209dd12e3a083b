"""Which part of the picture becomes the video, and how large."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic.parameters import Caution, RenderParameters
from sonic_runtime.engines.base import Portrait
from sonic_runtime.media import videos

SIDE_STEP_PX = 64
_HAIR, _NECK = 0.45, 0.12  # what the mesh leaves out of a head, in heights of the mesh
_MAX_ENLARGEMENT = 2.5


@dataclass(frozen=True)
class Framed:
    """The part of the picture at the size of the video."""

    rgb: NDArray[np.uint8]  # [height, width, 3]
    landmarks: NDArray[np.float32]  # [478, 3], pixels of `rgb`
    cautions: tuple[Caution, ...]


def frame(portrait: Portrait, parameters: RenderParameters) -> Framed:
    """Cut and scale. `expand_ratio` 0 keeps the whole picture; otherwise a square around the head, hair to chin.

    Raises errors.BadParameters for a picture so long that its video would be too large.
    """
    height, width = portrait.rgb.shape[:2]
    x0, y0, x1, y1 = 0, 0, width, height
    if parameters.expand_ratio:
        x0, y0, x1, y1 = _square(portrait, parameters.expand_ratio)
    scale = parameters.min_resolution / min(x1 - x0, y1 - y0)
    out_width, out_height = (_rounded((end - start) * scale) for start, end in ((x0, x1), (y0, y1)))
    videos.check_sides(out_width, out_height)
    part = portrait.rgb[y0:y1, x0:x1]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4
    rgb = cv2.resize(part, (out_width, out_height), interpolation=how).astype(np.uint8)
    ratio = np.array([out_width / (x1 - x0), out_height / (y1 - y0), scale])
    landmarks = (portrait.face.landmarks - np.array([x0, y0, 0])) * ratio
    cautions = []
    if scale > _MAX_ENLARGEMENT:
        message = (
            f"the part shown has {x1 - x0} x {y1 - y0} pixels and is enlarged {scale:.1f} times; it will look soft"
        )
        cautions.append(Caution("ENLARGED", message))
    return Framed(rgb, landmarks.astype(np.float32), tuple(cautions))


def _square(portrait: Portrait, expand_ratio: float) -> tuple[int, int, int, int]:
    """The head's box grown by expand_ratio of its size on each side, made square, moved and cut to fit the picture."""
    height, width = portrait.rgb.shape[:2]
    left, forehead, right, chin = portrait.face.box
    tall = chin - forehead
    top, bottom = forehead - _HAIR * tall, chin + _NECK * tall
    side = max(bottom - top, right - left) * (1 + 2 * expand_ratio)
    side = min(side, width, height)
    x0 = min(max((left + right) / 2 - side / 2, 0), width - side)
    y0 = (top + bottom) / 2 - side / 2
    y0 = max(y0, chin + min(bottom - chin, side - tall) - side)  # of a head too tall, hair is left out before the chin
    y0 = min(max(y0, 0), height - side)
    return round(x0), round(y0), round(x0) + int(side), round(y0) + int(side)


def _rounded(length: float) -> int:
    return max(round(length / SIDE_STEP_PX), 1) * SIDE_STEP_PX
