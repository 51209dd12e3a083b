"""The model folder: what is in it, whether it is whole, and how it gets there.

Every model has a folder of its own, NAME/VERSION, with its files and a manifest of their SHA-256; it appears whole or
not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sonic_runtime import errors
from sonic_runtime.models import face_mesh
from sonic_runtime.models.packages import FetchFailed, take

MANIFEST = "manifest.json"
NAMES = (face_mesh.NAME,)
Say = Callable[[str], None]


class UnknownModel(FetchFailed):
    """There is no such model."""


@dataclass(frozen=True)
class Model:
    """A model as the folder has it. `problem` is empty when every file is there and unchanged."""

    name: str
    version: str
    licence: str
    path: Path
    problem: str


def root() -> Path:
    """The folder of all models: SONIC_MODELS, or one among the user's data."""
    configured = os.environ.get("SONIC_MODELS")
    return Path(configured) if configured else Path(platformdirs.user_data_dir("sonic-fleet")) / "models"


def listing() -> list[Model]:
    """Every model that the engines know, checked."""
    return [verify(name) for name in NAMES]


def verify(name: str) -> Model:
    """Check a model's files against its manifest. Raises UnknownModel."""
    _known(name)
    path = root() / name / face_mesh.VERSION
    return Model(name, face_mesh.VERSION, face_mesh.LICENCE, path, _problem(path))


def path(name: str) -> Path:
    """The folder of a model that is there. Raises errors.ModelMissing, UnknownModel."""
    _known(name)
    found = root() / name / face_mesh.VERSION
    if not (found / MANIFEST).exists():
        raise errors.ModelMissing(f"{name} is not in {root()}; run `sonic models fetch {name}`")
    return found


def fetch(name: str, say: Say, wheelhouse: Path | None = None) -> Model:
    """Put a model into the folder, unless it is there and whole. Raises FetchFailed."""
    model = verify(name)
    if not model.problem:
        say(f"{name} {model.version} is already in {model.path}")
        return model
    say(f"fetching {name} {model.version} ({model.licence}) …")
    files = {source: sha256 for source, sha256 in face_mesh.SOURCES.values()}
    taken = take(face_mesh.WHEEL, files, wheelhouse)
    from sonic_runtime.models.tflite_to_onnx import convert  # only here: it needs onnx and tflite

    made = {
        target: convert(taken[source], Path(target).stem).SerializeToString()
        for target, (source, _) in face_mesh.SOURCES.items()
    }
    _keep(model.path, made)
    say(f"{name} {model.version} is in {model.path}")
    return verify(name)


def _known(name: str) -> None:
    if name not in NAMES:
        raise UnknownModel(f"there is no model {name!r}; known are {', '.join(NAMES)}")


def _problem(path: Path) -> str:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for file, sha256 in manifest["files"].items():
            if hashlib.sha256((path / file).read_bytes()).hexdigest() != sha256:
                return f"{file} has been changed; run `sonic models fetch` again"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}; run `sonic models fetch` again"
    return ""


def _keep(path: Path, files: dict[str, bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
            whole = Path(folder) / "whole"
            whole.mkdir()
            for name, data in files.items():
                (whole / name).write_bytes(data)
            sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            (whole / MANIFEST).write_text(json.dumps({"files": sums}, indent=2) + "\n")
            shutil.rmtree(path, ignore_errors=True)
            whole.rename(path)
    except OSError as error:
        raise FetchFailed(
            f"{path} could not be written: {error.strerror}; set SONIC_MODELS to another folder"
        ) from error
