"""Models come out of pinned packages, are checked, and lie in the folder whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sonic_runtime import errors, models
from sonic_runtime.models.packages import FetchFailed, Wheel, take
from sonic_runtime.models.samples import fetch_samples

NOTHING_SAID: list[str] = []
TOY = Wheel("toy==1.0", platforms=("any",), abi="none")


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A folder with a small wheel of a package that no index has."""
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/weights.bin", b"weights")
        wheel.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    return tmp_path / "wheels"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_wheelhouse_serves_without_an_index(wheelhouse: Path) -> None:
    assert take(TOY, {"toy/weights.bin": sha256(b"weights")}, wheelhouse) == {"toy/weights.bin": b"weights"}


def test_other_bytes_than_the_pinned_ones_are_refused(wheelhouse: Path) -> None:
    with pytest.raises(FetchFailed, match=r"weights\.bin of toy==1\.0 has the SHA-256"):
        take(TOY, {"toy/weights.bin": sha256(b"other")}, wheelhouse)


def test_a_wheel_that_is_damaged_is_named(wheelhouse: Path) -> None:
    wheel = wheelhouse / "toy-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes().replace(b".binweights", b".binweight?", 1))
    with pytest.raises(FetchFailed, match=r"weights\.bin of toy==1\.0 cannot be unpacked"):
        take(TOY, {"toy/weights.bin": sha256(b"weights")}, wheelhouse)


def test_a_file_or_a_package_that_is_not_there_is_named(wheelhouse: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"toy==1\.0 has no file toy/missing\.bin"):
        take(TOY, {"toy/missing.bin": ""}, wheelhouse)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FetchFailed, match=r"toy==1\.0 could not be had from the wheelhouse"):
        take(TOY, {"toy/weights.bin": ""}, tmp_path / "empty")


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (False, "from the package index within 900 s; try again, or set PIP_INDEX_URL"),
        (True, "from the wheelhouse .* within 900 s; try again, or copy it to a disk"),
    ],
)
def test_a_download_that_takes_too_long_ends_with_what_to_do(
    wheelhouse: Path, monkeypatch: pytest.MonkeyPatch, served: bool, said: str
) -> None:
    def run(command: list[str], **how: Any) -> None:
        raise subprocess.TimeoutExpired(command, how["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FetchFailed, match=rf"toy==1\.0 did not come {said}"):
        take(TOY, {"toy/weights.bin": ""}, wheelhouse if served else None)


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path / "models"))
    with pytest.raises(FetchFailed):
        models.fetch("face-mesh", NOTHING_SAID.append, wheelhouse)
    assert not (tmp_path / "models").exists()
    with pytest.raises(errors.ModelMissing, match="run `sonic models fetch face-mesh`"):
        models.path("face-mesh")


def test_a_model_that_was_changed_is_found_out_and_fetched_again(
    tmp_path: Path, finder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real files, in a folder of their own; `finder` has fetched them once."""
    real = models.path("face-mesh")
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    target = models.verify("face-mesh").path
    assert models.verify("face-mesh").problem == "is not here"
    shutil.copytree(real, target)
    assert models.verify("face-mesh").problem == ""
    whole = (target / "mesh.onnx").read_bytes()
    (target / "mesh.onnx").write_bytes(whole[:-1])
    assert models.verify("face-mesh").problem == f"mesh.onnx has been changed; run `sonic models fetch {target.name}`"
    (target / "manifest.json").write_text("[]")
    assert "manifest.json cannot be read" in models.verify("face-mesh").problem
    assert models.fetch("face-mesh", NOTHING_SAID.append, real).problem == ""
    assert (target / "mesh.onnx").read_bytes() == whole


def test_a_manifest_from_before_sizes_were_kept_still_holds(
    tmp_path: Path, finder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = models.path("face-mesh")
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    target = models.verify("face-mesh").path
    shutil.copytree(real, target)
    files = {name: sha256((target / name).read_bytes()) for name in ("detector.onnx", "mesh.onnx")}
    (target / "manifest.json").write_text(json.dumps({"files": files}))
    assert models.verify("face-mesh").problem == ""
    (target / "mesh.onnx").write_bytes(b"other")
    assert models.verify("face-mesh").problem
    (target / "mesh.onnx").unlink()
    assert models.verify("face-mesh").problem == f"mesh.onnx is missing; run `sonic models fetch {target.name}`"


def test_an_unknown_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    with pytest.raises(FetchFailed, match="there is no model 'faces'; known are face-mesh, mediapipe"):
        models.verify("faces")


def test_samples_that_are_there_are_not_fetched_again(tmp_path: Path, samples: object) -> None:
    for name in ("portrait.jpg", "smile.png", "voice.wav"):
        (tmp_path / name).write_bytes(b"kept")
    (tmp_path / "none").mkdir()
    assert fetch_samples(tmp_path, wheelhouse=tmp_path / "none").portrait.read_bytes() == b"kept"
