"""MediaPipe's face detector and 478-point attention mesh (Apache-2.0), taken from its wheel and converted to ONNX."""

from __future__ import annotations

from sonic_runtime.models.packages import Wheel

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
