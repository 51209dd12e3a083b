"""How a model gets into the folder, and what there is: the same for every kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sonic_runtime import errors
from sonic_runtime.models import catalogue, folder, licences, tiny
from sonic_runtime.models.catalogue import Known
from sonic_runtime.models.folder import FetchFailed, File, Manifest, Read
from sonic_runtime.models.published import Say

FOLDER_VARIABLE = "SONIC_MODELS_FROM"  # a folder that is asked before anybody else
ACCEPT_VARIABLE = "SONIC_ACCEPT_LICENCE"
Agree = Callable[[], bool]
"""Called when terms have been said that nobody has accepted yet: whether they are accepted."""


class Store(Protocol):
    """Somewhere a model was put, file by file. Its methods raise FetchFailed."""

    def manifest(self) -> Manifest: ...

    def get(self, file: File, target: Path) -> None:
        """Bring a file to `target`, going on with what is there of it; the caller checks its hash."""


@dataclass(frozen=True)
class Model:
    """A model as the folder has it. `problem` is empty when every file is there and unchanged."""

    name: str
    version: str
    licence: str
    path: Path
    problem: str
    optional: bool  # nothing is wrong where it is not here


def listing() -> list[Model]:
    """Every model that is known, and every version that is here. Large files are only measured, see `verify`."""
    known = {(known.name, known.version) for known in catalogue.KNOWN if known.version != tiny.VERSION}
    here = {(name, version) for name in folder.names() for version in folder.versions(name)}
    return [_model(name, version, read="small") for name, version in sorted(known | here)]


def verify(name: str) -> Model:
    """Check the files of a model, or of a version of it, against its manifest. Raises UnknownModel."""
    return _model(*named(name), read="all")


def path(name: str, version: str | None = None) -> Path:
    """The folder of a model that is there. Raises errors.ModelMissing, UnknownModel.

    Without `version` it is the one that the engines take, see SONIC_MODEL_VERSION.
    """
    version = version or catalogue.wanted_version(name)
    found = folder.place(name, version)
    if not (found / folder.MANIFEST).exists():
        others = [other for other in folder.versions(name) if other != version]
        here = f"; {' and '.join(others)} is here, set SONIC_MODEL_VERSION to take it" if others else ""
        known = [known for known in catalogue.KNOWN if known.version == version]
        command = "tiny" if version == tiny.VERSION else f"fetch {name}"
        how = f"; run `sonic models {command}`" if known else "; no such version is known"
        raise errors.ModelMissing(f"{name} {version} is not in {folder.root()}{how}{here}")
    return found


def whole(name: str) -> Path:
    """`path`, of a model whose files are those that its manifest lists. Raises errors.ModelBroken too.

    A file is read through when it was never found whole, or has been changed since; all others are only measured.
    """
    found = path(name)
    if problem := folder.problem(found, read="changed"):
        raise errors.ModelBroken(f"{found}: {problem}")
    return found


def fetch(
    name: str, say: Say, local: Path | None = None, store: Store | None = None, agree: Agree | None = None
) -> Model:
    """Put a model into the folder, unless it is there and whole. Raises FetchFailed, LicenceNotAccepted.

    It comes from the first of these that has it: the folder of SONIC_MODELS_FROM, the `store`, where it is published.
    With `local` it comes from that folder and nowhere else. `agree` is asked where terms are not accepted yet.
    """
    known = catalogue.find(name)
    model = verify(known.version)
    if not model.problem:
        say(f"{known.name} {known.version} is already in {model.path}")
        return model
    _agreed(known, say, agree)
    say(f"fetching {known.name} {known.version} ({known.licence}) …")
    with folder.arriving(known.name, known.version) as into:
        folder.settle(into, _first(known, into, say, _sources(known, say, local, store)))
    say(f"{known.name} {known.version} is in {model.path}")
    return _model(known.name, known.version, read="small")


def draw_tiny(seed: int) -> Model:
    """Put the tiny model into the folder, in place of one that is there. Raises FetchFailed."""
    known = catalogue.find(tiny.VERSION)
    with folder.arriving(known.name, known.version) as into:
        folder.settle(into, Manifest(known.name, known.version, known.licence, tiny.fetch(into, seed)))
    return _model(known.name, known.version, read="small")


def _agreed(known: Known, say: Say, agree: Agree | None) -> None:
    if not known.terms or licences.accepted(known.version, known.licence):
        return
    say(known.terms)
    said = os.environ.get(ACCEPT_VARIABLE, "")
    if said != "1" and not (agree and agree()):
        raise licences.LicenceNotAccepted(
            f"the terms of {known.name} {known.version} have not been accepted, so it is not fetched; to accept them, "
            f"run `sonic models fetch {known.name} --accept-licence`, or set {ACCEPT_VARIABLE}=1"
            + (f" ({said!r} is not understood)" if said and said != "0" else "")
        )
    licences.accept(known.version, known.licence)


Source = Callable[[Path], tuple[File, ...]]


def _sources(known: Known, say: Say, local: Path | None, store: Store | None) -> list[Source]:
    if local:
        return [lambda into: _from_folder(known, local, into)]
    sources: list[Source] = []
    if configured := os.environ.get(FOLDER_VARIABLE):
        sources.append(lambda into: _from_folder(known, Path(configured), into))
    if store:
        sources.append(lambda into: _from_store(known, store, into, say))
    return [*sources, lambda into: known.fetch(into, say)]


def _first(known: Known, into: Path, say: Say, sources: list[Source]) -> Manifest:
    """What the first source brings that can."""
    *others, last = sources
    for source in others:
        try:
            return Manifest(known.name, known.version, known.licence, source(into))
        except FetchFailed as error:
            say(f"{error}; it is tried elsewhere")
    return Manifest(known.name, known.version, known.licence, last(into))


def _from_folder(known: Known, given: Path, into: Path) -> tuple[File, ...]:
    for candidate in (given, given / known.name / known.version):
        try:
            manifest = folder.read_manifest(candidate)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise FetchFailed(f"{candidate / folder.MANIFEST} cannot be read: {error}") from error
        if (manifest.name, manifest.version) == (known.name, known.version):
            return _held_to(manifest, into, partial(_copy, candidate))
    if not known.take:
        raise FetchFailed(f"{given} has no {known.name} {known.version}")
    return known.take(given, into)


def _copy(given: Path, file: File, target: Path) -> None:
    source = given / file.path
    if not source.is_file():
        raise FetchFailed(f"{source} is missing, which its manifest names")
    folder.copy(source, target)


def _from_store(known: Known, store: Store, into: Path, say: Say) -> tuple[File, ...]:
    manifest = store.manifest()
    if (manifest.name, manifest.version) != (known.name, known.version):
        raise FetchFailed(f"the store has {manifest.name} {manifest.version} there, not {known.name} {known.version}")

    def get(file: File, target: Path) -> None:
        say(f"{file.path} ({file.bytes / 1e6:,.1f} MB) from the fleet's store")
        store.get(file, target)

    return _held_to(manifest, into, get)


def _held_to(manifest: Manifest, into: Path, get: Callable[[File, Path], None]) -> tuple[File, ...]:
    """Every file of a manifest, with the bytes that it says."""
    for file in manifest.files:
        target = into / file.path
        if target.exists() and target.stat().st_size == file.bytes and folder.sha256_of(target) == file.sha256:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        get(file, target)
        if (digest := folder.sha256_of(target)) != file.sha256:
            target.unlink()
            raise FetchFailed(f"{file.path} has the SHA-256 {digest}; its manifest says {file.sha256}")
    return manifest.files


def named(name: str) -> tuple[str, str]:
    """A model's name, or that of a version that is known or here, as both. Raises UnknownModel."""
    for model in folder.names():
        if name in folder.versions(model):
            return model, name
    known = catalogue.find(name)
    return (known.name, catalogue.wanted_version(name)) if name == known.name else (known.name, known.version)


def _model(name: str, version: str, read: Read) -> Model:
    place = folder.place(name, version)
    problem = folder.problem(place, read)
    known = next((known for known in catalogue.KNOWN if (known.name, known.version) == (name, version)), None)
    if known:
        return Model(name, version, known.licence, place, problem, known.optional)
    licence = "" if problem else folder.read_manifest(place).licence
    return Model(name, version, licence, place, problem, optional=True)
