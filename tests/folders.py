"""What lies in folders where other processes write and remove meanwhile; what vanishes is passed over."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def files_below(*folders: Path) -> list[Path]:
    """Every file, at any depth. (`Path.rglob` raises when a folder vanishes.)"""
    walks = (entry for folder in folders for entry in os.walk(folder))
    return [Path(folder) / name for folder, _, names in walks for name in names]


def bytes_below(*folders: Path) -> dict[Path, bytes]:
    """What every file holds, at any depth."""
    found = {}
    for path in files_below(*folders):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.read_bytes()
    return found
