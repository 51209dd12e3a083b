"""Portraits that were prepared for a render, kept for the next one that shows the same face."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonic.parameters import Caution, RenderParameters
from sonic_runtime import errors
from sonic_runtime.engines.base import Engine
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import portraits

MOST_KEPT = 8  # about 7 MB each for a video of 1024 pixels by the built-in engine


@dataclass(frozen=True)
class Prepared:
    """What an engine has made of a portrait, and what its user should know of the picture."""

    portrayed: Any
    cautions: tuple[Caution, ...]


class PreparedPortraits:
    """Those used last, by the bytes of the picture and by all that preparing depends on. For one render at a time."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()

    def get(self, path: Path, engine: Engine, finder: FaceFinder, wanted: RenderParameters) -> tuple[Prepared, bool]:
        """The portrait, and whether it had been prepared before. Raises errors.RenderError."""
        key = (
            _sha256(path),
            engine.name,
            engine.model_version,
            *(getattr(wanted, name) for name in engine.portrait_parameters),
        )
        known = key in self._kept
        if not known:
            portrait = portraits.load(path, finder)
            self._kept[key] = Prepared(engine.portray(portrait, wanted), portrait.cautions)
        self._kept.move_to_end(key)
        found = self._kept[key]
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found, known


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise errors.PortraitUnreadable(f"{error.strerror}") from None
