"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it is. Only a problem makes the command fail."""

    OK = "ok"
    WARNING = "warning"  # works, though perhaps not as wanted
    PROBLEM = "problem"
    SKIPPED = "skipped"  # cannot be looked at here


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it when it is not ok."""

    name: str
    state: State
    found: str
    advice: str = ""


def not_installed(name: str, package: str, extra: str) -> list[Finding]:
    """The finding where the package that a check needs is missing."""
    advice = f"to render here: pip install 'sonic-fleet[{extra}]'"
    return [Finding(name, State.SKIPPED, f"{package} is not installed", advice)]
