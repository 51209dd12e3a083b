"""The 478-point attention mesh (Grishchenko et al., Attention Mesh, 2020) on 192 x 192 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic_runtime import providers
from sonic_runtime.faces import topology
from sonic_runtime.faces.detector import Hit

INPUT_PX = 192
_ROOM = 1.5  # side of the view, in longer sides of the face's box
_REFINED = (
    ("output_lips", topology.REFINED_LIPS),
    ("output_left_eye", topology.REFINED_LEFT_EYE),
    ("output_right_eye", topology.REFINED_RIGHT_EYE),
    ("output_left_iris", topology.LEFT_IRIS),
    ("output_right_iris", topology.RIGHT_IRIS),
)


@dataclass(frozen=True)
class View:
    """A turned square of the picture that the network looks at."""

    centre: NDArray[np.float64]  # [2], pixels of the picture
    side: float  # pixels of the picture
    roll: float  # radians, clockwise

    def matrix(self) -> NDArray[np.float64]:
        """From pixels of the view to pixels of the picture, [2, 3]."""
        scale = self.side / INPUT_PX
        turn = scale * np.array([[np.cos(self.roll), -np.sin(self.roll)], [np.sin(self.roll), np.cos(self.roll)]])
        return np.hstack([turn, (self.centre - turn @ [INPUT_PX / 2, INPUT_PX / 2])[:, None]])


class Mesh:
    """The network, loaded."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        self._session = providers.open_session(model, "face-mesh", threads)

    def locate(self, rgb: NDArray[np.uint8], hit: Hit) -> tuple[NDArray[np.float32], float]:
        """Landmarks (float32 [478, 3], pixels of the picture) of a face that was found, and the confidence, 0 to 1.

        Looks twice: the box around the first look's own landmarks is a better view than the detector's.
        """
        left, right = hit.points[0], hit.points[1]
        roll = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
        first = View(
            (hit.box[:2] + hit.box[2:]).astype(np.float64) / 2, _ROOM * float(np.max(hit.box[2:] - hit.box[:2])), roll
        )
        landmarks, _ = self._look(rgb, first)
        return self._look(rgb, view_around(landmarks))

    def _look(self, rgb: NDArray[np.uint8], view: View) -> tuple[NDArray[np.float32], float]:
        matrix = view.matrix()
        pixels = _shrunk(rgb, matrix)
        found = dict(zip(self._outputs, self._session.run(self._outputs, {"input_1": pixels}), strict=True))
        points = np.zeros((478, 3), np.float32)
        points[:468] = found["output_mesh_identity"].reshape(468, 3)
        for name, indices in _REFINED:
            points[list(indices), :2] = found[name].reshape(-1, 2)
        points[468:, 2] = points[[*[159] * 5, *[386] * 5], 2]  # irises have no depth of their own: the upper lids'
        confidence = 1 / (1 + np.exp(-np.clip(found["conv_faceflag"].item(), -80, 80)))
        scale = view.side / INPUT_PX
        placed = np.hstack([points[:, :2] @ matrix[:, :2].T + matrix[:, 2], points[:, 2:] * scale])
        return placed.astype(np.float32), float(confidence)

    @property
    def _outputs(self) -> list[str]:
        return ["output_mesh_identity", *(name for name, _ in _REFINED), "conv_faceflag"]


def view_around(landmarks: NDArray[np.float32]) -> View:
    """The view of a face whose landmarks are known: level eyes, a square around all points."""
    left, right = landmarks[topology.LEFT_EYE_OUTER, :2], landmarks[topology.RIGHT_EYE_OUTER, :2]
    roll = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    level = landmarks[:468, :2] @ turn
    low, high = level.min(axis=0), level.max(axis=0)
    return View(turn @ ((low + high) / 2), _ROOM * float(np.max(high - low)), roll)


def _shrunk(rgb: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """The view's pixels, float32 [1, 192, 192, 3], 0 to 1; large pictures are averaged down before they are sampled."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    steps = max(int(np.floor(np.log2(max(scale, 1)))), 0)
    if steps:
        factor = 2**steps
        rgb = cv2.resize(rgb, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA).astype(np.uint8)
        matrix = matrix.copy() / factor
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(rgb, matrix, (INPUT_PX, INPUT_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return (view.astype(np.float32) / np.float32(255))[None]
