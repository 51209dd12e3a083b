"""Faces in pictures: where they are, 478 points on each, and how the head is turned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonic.exceptions import BadSettings
from sonic_runtime import errors, models
from sonic_runtime.engines.base import Face
from sonic_runtime.faces import topology
from sonic_runtime.faces.detector import Detector
from sonic_runtime.faces.mesh import Mesh
from sonic_runtime.models import face_mesh

_MIN_CONFIDENCE = 0.2  # below it the detector has taken something else for a face


class FaceFinder:
    """Both networks, loaded from the model folder. Raises errors.ModelMissing and errors.ModelBroken."""

    def __init__(self, threads: int = 1) -> None:
        folder = models.whole(face_mesh.NAME)
        with _opening(folder):
            self._detector = Detector(folder / face_mesh.DETECTOR, threads)
            self._mesh = Mesh(folder / face_mesh.MESH, threads)

    def find(self, rgb: NDArray[np.uint8]) -> list[Face]:
        """Faces in a picture (uint8 [height, width, 3]), the largest first; coordinates are pixels of the picture."""
        located = [self._mesh.locate(rgb, hit) for hit in self._detector.find(rgb)]
        faces = [_face(landmarks, confidence) for landmarks, confidence in located if confidence > _MIN_CONFIDENCE]
        return sorted(faces, key=lambda face: -(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


@contextmanager
def _opening(folder: Path) -> Iterator[None]:
    try:
        yield
    except (errors.RenderError, BadSettings, MemoryError):
        raise
    except Exception as error:  # onnxruntime has no common class for them
        raise errors.ModelBroken(f"{folder} cannot be opened; run `sonic models verify`: {error}") from error


def _face(landmarks: NDArray[np.float32], confidence: float) -> Face:
    low, high = landmarks[:468, :2].min(axis=0), landmarks[:468, :2].max(axis=0)
    yaw, pitch, roll = head_angles(landmarks)
    return Face(landmarks, (float(low[0]), float(low[1]), float(high[0]), float(high[1])), confidence, yaw, pitch, roll)


def head_angles(landmarks: NDArray[np.float32]) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees from landmarks [478, 3]; signs as in `Face`.

    The axes of the head are taken from the points themselves: cheek to cheek, and forehead to chin.
    """
    points = landmarks.astype(np.float64)
    across = points[topology.RIGHT_CHEEK] - points[topology.LEFT_CHEEK]
    down = points[topology.CHIN] - points[topology.FOREHEAD]
    eyes = points[topology.RIGHT_EYE_OUTER] - points[topology.LEFT_EYE_OUTER]
    yaw = np.degrees(np.arctan2(across[2], np.hypot(across[0], across[1])))
    pitch = np.degrees(np.arctan2(-down[2], np.hypot(down[0], down[1])))
    roll = np.degrees(np.arctan2(eyes[1], eyes[0]))
    return float(yaw), float(pitch), float(roll)
