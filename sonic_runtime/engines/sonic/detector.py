"""The reference's face detector (`yoloface_v5m.pt`), for those who want its boxes: what is around the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHORT_SIDE_PX = 416
MIN_CONFIDENCE = 0.5
_MOST_OVERLAP = 0.45
_STRIDES = (8, 16, 32)

Network = Callable[[Tensor, list[Tensor]], Tensor]


@dataclass(frozen=True)
class Detections:
    """Faces, the surest first; all in pixels of the picture."""

    boxes: NDArray[np.float64]  # [n, 4]: x, y, width, height
    landmarks: NDArray[np.float64]  # [n, 5, 2]
    scores: NDArray[np.float64]  # [n], 0 to 1


def find(network: Network, bgr: NDArray[np.uint8]) -> Detections:
    """Faces in a picture, uint8 [height, width, 3], blue first."""
    seen = network_input(bgr)
    with torch.inference_mode():
        found = network(seen, grids(seen.shape[-2], seen.shape[-1])).numpy()[0]
    return decode(found, (seen.shape[-2], seen.shape[-1]), bgr.shape[:2])


def network_input(bgr: NDArray[np.uint8]) -> Tensor:
    """[1, 3, height, width], RGB, 0 to 1: the short side 416, each rounded up to a multiple of 32, nothing padded."""
    ratio = SHORT_SIDE_PX / min(bgr.shape[:2])
    height, width = (int(side * ratio + 31) // 32 * 32 for side in bgr.shape[:2])
    resized = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_LINEAR)
    rgb = np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb)[None].float() / 255


def grids(height: int, width: int) -> list[Tensor]:
    """The cells' numbers that the network is given for each stride, [1, 1, rows, columns, 2], x first."""
    made = []
    for stride in _STRIDES:
        rows, columns = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        made.append(torch.stack((columns, rows), -1)[None, None].float())
    return made


def decode(found: NDArray[np.float32], seen: tuple[int, int], size: tuple[int, int]) -> Detections:
    """What the network found, [n, 16] (centre, size, objectness, five landmarks, class), in pixels of its input `seen`
    (height, width) -> faces in a picture of `size` (height, width)."""
    values = found[found[:, 4] > MIN_CONFIDENCE].astype(np.float64)
    scores = values[:, 4] * values[:, 15]
    values, scores = values[scores > MIN_CONFIDENCE], scores[scores > MIN_CONFIDENCE]
    corners = np.concatenate((values[:, :2] - values[:, 2:4] / 2, values[:, :2] + values[:, 2:4] / 2), axis=1)
    keep = _distinct(corners, scores)
    scale = np.array([size[1] / seen[1], size[0] / seen[0]])
    boxes = np.concatenate((corners[keep, :2] * scale, values[keep, 2:4] * scale), axis=1)
    return Detections(boxes, values[keep, 5:15].reshape(-1, 5, 2) * scale, scores[keep])


def _distinct(corners: NDArray[np.float64], scores: NDArray[np.float64]) -> list[int]:
    """Greedy suppression of boxes [n, 4] that overlap with a surer one; the numbers of those kept."""
    left, kept = list(np.argsort(-scores, kind="stable")), []
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    while left:
        best = left.pop(0)
        kept.append(int(best))
        low = np.maximum(corners[best, :2], corners[left, :2])
        high = np.minimum(corners[best, 2:], corners[left, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        overlap = shared / (areas[best] + areas[left] - shared)
        left = [box for box, share in zip(left, overlap, strict=True) if share <= _MOST_OVERLAP]
    return kept


def largest(boxes: NDArray[np.float64]) -> int:
    """The number of the largest box of [n, 4] (x, y, width, height). The reference takes `last_larger`."""
    return int(np.argmax(boxes[:, 2] * boxes[:, 3]))


def last_larger(boxes: NDArray[np.float64]) -> int:
    """What the reference takes where it means the largest: the last box that is larger than the first."""
    areas = boxes[:, 2] * boxes[:, 3]
    larger = np.flatnonzero(areas > areas[0])
    return int(larger[-1]) if len(larger) else 0
