"""The mesh is where the face is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonic.exceptions import BadSettings
from sonic_runtime import errors, models
from sonic_runtime.faces import FaceFinder, topology
from sonic_runtime.media import portraits
from sonic_runtime.models.samples import Samples

# Read off the picture by eye, in pixels: what the landmarks must find on the sample portrait.
MOUTH_CENTRE, LEFT_IRIS, RIGHT_IRIS, NOSE_TIP = (224, 145), (207, 105), (248, 108), (225, 126)


def test_landmarks_are_where_they_are_seen(samples: Samples, finder: FaceFinder) -> None:
    (face,) = finder.find(portraits.read(samples.smile))
    found = face.landmarks[:, :2]
    mouth = (found[topology.MOUTH_LEFT] + found[topology.MOUTH_RIGHT]) / 2
    irises = [found[list(iris)].mean(axis=0) for iris in (topology.LEFT_IRIS, topology.RIGHT_IRIS)]
    seen_points = (MOUTH_CENTRE, LEFT_IRIS, RIGHT_IRIS, NOSE_TIP)
    for point, seen in zip([mouth, *irises, found[topology.NOSE_TIP]], seen_points, strict=True):
        assert np.hypot(*(point - seen)) < 6, (point, seen)
    assert face.confidence > 0.95
    assert abs(face.yaw_degrees) < 8


def test_the_mesh_follows_scale_place_and_mirror(samples: Samples, finder: FaceFinder) -> None:
    rgb = portraits.read(samples.smile)
    (face,) = finder.find(rgb)
    size = np.hypot(*(face.landmarks[topology.RIGHT_EYE_OUTER] - face.landmarks[topology.LEFT_EYE_OUTER])[:2])
    larger = cv2.resize(rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    moved = cv2.copyMakeBorder(larger, 100, 700, 900, 300, cv2.BORDER_REPLICATE)
    (again,) = finder.find(moved)
    back = (again.landmarks[:, :2] - [900, 100]) / 2
    assert np.abs(back - face.landmarks[:, :2]).mean() < 0.03 * size
    (mirrored,) = finder.find(np.ascontiguousarray(rgb[:, ::-1]))
    chin = rgb.shape[1] - 1 - mirrored.landmarks[topology.CHIN, 0]
    assert abs(chin - face.landmarks[topology.CHIN, 0]) < 0.06 * size
    assert abs(mirrored.roll_degrees + face.roll_degrees) < 3


@pytest.mark.parametrize("degrees", [-30, 20])
def test_a_tilted_head_is_found_and_measured(samples: Samples, finder: FaceFinder, degrees: int) -> None:
    rgb = portraits.read(samples.smile)
    turn = cv2.getRotationMatrix2D((225, 130), -degrees, 1)  # OpenCV turns the other way
    turned = cv2.warpAffine(rgb, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    (level,) = finder.find(rgb)
    (face,) = finder.find(turned)
    assert abs(face.roll_degrees - level.roll_degrees - degrees) < 4


def test_noise_and_emptiness_have_no_face(finder: FaceFinder) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    assert finder.find(noise) == []
    assert finder.find(np.zeros((200, 200, 3), np.uint8)) == []


def test_small_faces_in_large_pictures_are_found(material, finder: FaceFinder) -> None:
    faces = finder.find(portraits.read(material / "portraits" / "biden.jpg"))
    assert 400 < faces[0].box[0] < 450
    assert 210 < faces[0].box[1] < 250


@pytest.fixture
def mesh(tmp_path: Path, finder: FaceFinder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mesh's file, in a model folder of its own."""
    real = models.path("face-mesh")
    shutil.copytree(real, tmp_path / "face-mesh" / real.name)
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    return tmp_path / "face-mesh" / real.name / "mesh.onnx"


def test_a_network_that_was_cut_short_is_named_with_what_to_run(mesh: Path) -> None:
    os.truncate(mesh, 1000)
    with pytest.raises(errors.ModelBroken, match=r"mesh\.onnx has been changed.*; run `sonic models fetch"):
        FaceFinder()


def test_a_network_that_does_not_open_is_a_broken_model(mesh: Path) -> None:
    """Nothing but opening it tells, where it is what its manifest lists."""
    os.truncate(mesh, 1000)
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in mesh.parent.glob("*.onnx")}
    (mesh.parent / "manifest.json").write_text(json.dumps({"files": hashes}))
    with pytest.raises(errors.ModelBroken, match=r"cannot be opened; run `sonic models verify`: .*mesh\.onnx"):
        FaceFinder()


def test_a_provider_that_is_not_known_is_no_fault_of_the_model(mesh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_PROVIDERS", "cdua")
    with pytest.raises(BadSettings, match="there is no provider 'cdua'"):
        FaceFinder()
