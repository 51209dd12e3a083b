"""MediaPipe's face detector and 478-point attention mesh (Apache-2.0), taken from its wheel and converted to ONNX."""

from __future__ import annotations

from pathlib import Path

from sonic_runtime.models.folder import File, listed
from sonic_runtime.models.packages import Wheel, take

NAME = "face-mesh"
VERSION = "mediapipe-0.10.21"
WHEEL = Wheel("mediapipe==0.10.21")
LICENCE = "Apache-2.0"
DETECTOR, MESH = "detector.onnx", "mesh.onnx"
SOURCES = {
    DETECTOR: (
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    MESH: (
        "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite",
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
    ),
}


def fetch(into: Path, wheelhouse: Path | None = None) -> tuple[File, ...]:
    """Put the networks into a folder; `wheelhouse` is one that has the wheel. Raises FetchFailed, OSError."""
    taken = take(WHEEL, dict(SOURCES.values()), wheelhouse)
    from sonic_runtime.models.tflite_to_onnx import convert  # only here: it needs onnx and tflite

    for target, (source, _) in SOURCES.items():
        (into / target).write_bytes(convert(taken[source], Path(target).stem).SerializeToString())
    return listed(into)
