"""Which terms somebody has accepted on this machine: asked once for a version, and kept beside the models."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from sonic_runtime.models import folder
from sonic_runtime.models.folder import FetchFailed

ACCEPTED = "licences.json"


class LicenceNotAccepted(FetchFailed):
    """Nobody has accepted the terms of a model."""


def accepted(version: str, licence: str) -> bool:
    """Whether the licence has been accepted for this version."""
    entry = _read().get(version)
    return isinstance(entry, dict) and entry.get("licence") == licence


def accept(version: str, licence: str) -> None:
    """Keep that the licence has been accepted, and when. Raises FetchFailed."""
    entries = _read() | {version: {"licence": licence, "accepted": datetime.now(UTC).isoformat(timespec="seconds")}}
    path = folder.root() / ACCEPTED
    new = path.with_name(f".{ACCEPTED}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(entries, indent=2) + "\n")
        new.replace(path)
    except OSError as error:
        raise folder.unwritable(path, error) from error


def _read() -> dict[str, Any]:
    try:
        entries = json.loads((folder.root() / ACCEPTED).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
