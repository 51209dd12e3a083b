"""Alertmanager's configuration of a tenant, as a file and as Mimir keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.rules import groups
from sonic.config import MASK
from sonic.exceptions import BadRules

_SECRET = re.compile(r"(password|secret|token|key|credentials|url)$")


@dataclass(frozen=True)
class Routing:
    """A configuration with the templates that it names."""

    text: str
    templates: dict[str, str] = field(default_factory=dict)  # content by name

    @property
    def meaning(self) -> Any:
        """Equal for two that do the same."""
        return groups.parsed(self.text, "Alertmanager's configuration"), self.templates

    @property
    def shown(self) -> str:
        """As a person may see it: without comments, secrets masked."""
        config, templates = self.meaning
        return groups.dumped(_masked(config) | ({"template_files": templates} if templates else {}))


def read(path: Path) -> Routing:
    """Raises BadRules."""
    try:
        text = path.read_text(encoding="utf-8")
        config = groups.parsed(text, str(path))
        if not isinstance(config, dict) or not isinstance(config.get("route"), dict):
            raise BadRules(f"{path} is not a configuration of Alertmanager: it has no route")
        found = [template for pattern in config.get("templates") or () for template in _found(path, pattern)]
        return Routing(text, {template.name: template.read_text(encoding="utf-8") for template in found})
    except (OSError, UnicodeDecodeError) as error:
        raise BadRules(f"{path}: {error}") from error


def _found(path: Path, pattern: str) -> list[Path]:
    if "/" in pattern:
        raise BadRules(
            f"{path}: template {pattern!r} is in a folder; Mimir knows names only, put it beside {path.name}"
        )
    if not (found := sorted(path.parent.glob(pattern))):
        raise BadRules(f"{path}: there is no template {pattern!r} beside it")
    return found


def _masked(data: Any, key: str = "") -> Any:
    if isinstance(data, dict):
        return {name: _masked(value, name) for name, value in data.items()}
    if isinstance(data, list):
        return [_masked(value, key) for value in data]
    return MASK if data and _SECRET.search(key) else data
