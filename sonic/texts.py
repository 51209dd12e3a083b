"""TOML and JSON that anybody may have written: nested and with numbers within bounds, or refused with the reason."""

from __future__ import annotations

import json
import tomllib
from typing import Any

_MOST = 1 << 63  # what TOML promises of whole numbers; far larger ones can neither be computed with nor printed


def toml(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        found = tomllib.loads(text)
        _check(found)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return found


def parsed_json(text: str) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for each in value.values():
            _check(each)
    elif isinstance(value, list):
        for each in value:
            _check(each)
    elif type(value) is int and abs(value) > _MOST:
        raise ValueError("it has a whole number of more than 64 bits")


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _MOST:
        raise ValueError("it has a whole number of more than 64 bits")
    return int(digits)
