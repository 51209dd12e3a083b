"""From a portrait to the pictures that the networks see: sizes, face mask and crop as the reference computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sonic_runtime.media import videos

SIDE_STEP_PX = 64
MASK_GROWTH = 1.1  # of the face's box, for the mask
_CLIP_PX = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


@dataclass(frozen=True)
class Pictures:
    """A portrait as the networks see it."""

    reference: Tensor  # [1, 3, height, width], -1 to 1
    mask: Tensor  # [1, 1, height, width], 0 to 1, not binary: where the face is
    clip: Tensor  # [1, 3, 224, 224], with CLIP's mean and deviation


def video_size(width: int, height: int, min_resolution: int) -> tuple[int, int]:
    """Width and height of the video: the short side becomes min_resolution, both become multiples of 64.

    Ties go to the even multiple, as Python rounds.
    """
    scale = min_resolution / min(width, height)
    return tuple(max(round(side * scale / SIDE_STEP_PX), 1) * SIDE_STEP_PX for side in (width, height))  # type: ignore[return-value]


def prepare(rgb: NDArray[np.uint8], face: Box, min_resolution: int, growth: float = MASK_GROWTH) -> Pictures:
    """`rgb` [height, width, 3] and the box of the face in it. Raises errors.BadParameters for too long a picture."""
    size = video_size(rgb.shape[1], rgb.shape[0], min_resolution)
    videos.check_sides(*size)
    resized = Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS)
    mask = Image.fromarray(face_mask(rgb.shape[1], rgb.shape[0], face, growth)).resize(size, Image.Resampling.LANCZOS)
    small = resized.resize((_CLIP_PX, _CLIP_PX), Image.Resampling.LANCZOS)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))
    return Pictures(
        reference=(_unit(resized) * 2 - 1)[None],
        mask=torch.from_numpy(np.array(mask))[None, None].float() / 255,
        clip=((_unit(small) - mean) / std)[None],
    )


def face_mask(width: int, height: int, face: Box, growth: float) -> NDArray[np.uint8]:
    """255 within the grown box of the face, 0 elsewhere, [height, width]."""
    x0, y0, x1, y1 = face
    centre_x, centre_y = (x0 + x1) // 2, (y0 + y1) // 2
    half_width, half_height = (x1 - x0) * growth // 2, (y1 - y0) * growth // 2
    left, right = max(centre_x - half_width, 0), min(centre_x + half_width, width)
    top, bottom = max(centre_y - half_height, 0), min(centre_y + half_height, height)
    mask = np.zeros((height, width), np.uint8)
    mask[int(top) : int(bottom), int(left) : int(right)] = 255
    return mask


def square_crop(width: int, height: int, face: Box, expand_ratio: float) -> tuple[int, int, int, int]:
    """A square around the face: its box grown by expand_ratio of its size on each side and cut to the picture; of that
    the largest square, moved toward the face as far as it may."""
    x0, y0, x1, y1 = face
    grow_x, grow_y = (x1 - x0) * expand_ratio, (y1 - y0) * expand_ratio
    left, top = max(x0 - grow_x, 0), max(y0 - grow_y, 0)
    right, bottom = min(x1 + grow_x, width), min(y1 + grow_y, height)
    side = min(right - left, bottom - top)
    slack_x, slack_y = (right - left - side) / 2, (bottom - top - side) / 2
    centre_x = _toward((left + right) / 2, (x0 + x1) / 2, slack_x)
    centre_y = _toward((top + bottom) / 2, (y0 + y1) / 2, slack_y)
    corners = (centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2)
    return tuple(round(corner) for corner in corners)  # type: ignore[return-value]


def _toward(value: float, aim: float, most: float) -> float:
    return value + math.copysign(min(abs(aim - value), most), aim - value)


def _unit(image: Image.Image) -> Tensor:
    """[3, height, width], 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
