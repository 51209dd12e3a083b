"""The models that the engines know. Each kind says how its files come into a folder; the rest is the same for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sonic_runtime.models import face_mesh, sonic, tiny
from sonic_runtime.models.folder import FetchFailed, File
from sonic_runtime.models.published import Say

VERSION_VARIABLE = "SONIC_MODEL_VERSION"  # which version of Sonic an engine takes


class UnknownModel(FetchFailed):
    """There is no such model."""


@dataclass(frozen=True)
class Known:
    """A version of a model, and how to come by it. What fetches raises FetchFailed and OSError."""

    name: str
    version: str
    licence: str
    fetch: Callable[[Path, Say], tuple[File, ...]]  # from where it is published, into a folder
    take: Callable[[Path, Path], tuple[File, ...]] | None  # from a folder that has it as published, into another
    needs: tuple[str, str]  # a package without which it cannot be fetched, and the extra that brings it
    terms: str = ""  # what has to be accepted first
    optional: bool = True  # nothing is wrong where it is not


KNOWN = (
    Known(
        face_mesh.NAME,
        face_mesh.VERSION,
        face_mesh.LICENCE,
        fetch=lambda into, _say: face_mesh.fetch(into),
        take=lambda wheelhouse, into: face_mesh.fetch(into, wheelhouse),
        needs=("tflite", "runtime"),
        optional=False,
    ),
    Known(
        sonic.NAME,
        sonic.VERSION,
        sonic.LICENCE,
        fetch=sonic.fetch,
        take=sonic.take,
        needs=("huggingface_hub", "diffusion"),
        terms=sonic.TERMS,
    ),
    Known(
        sonic.NAME,
        tiny.VERSION,
        tiny.LICENCE,
        fetch=lambda into, _say: tiny.fetch(into),
        take=None,
        needs=("diffusers", "diffusion"),
    ),
)


def find(name: str) -> Known:
    """A model by its name, or by the name of a version. Raises UnknownModel."""
    for known in KNOWN:
        if name in (known.name, known.version):
            return known
    names = dict.fromkeys(name for known in KNOWN for name in (known.name, known.version))
    raise UnknownModel(f"there is no model {name!r}; known are {', '.join(names)}")


def wanted_version(name: str) -> str:
    """The version of a model that an engine takes; of Sonic SONIC_MODEL_VERSION may name one. Raises UnknownModel."""
    known = find(name)
    return (os.environ.get(VERSION_VARIABLE) if name == sonic.NAME else "") or known.version
