"""Addresses of hubs, as settings name them."""

from __future__ import annotations

import re


def addresses(text: str) -> list[str]:
    """The hubs that a setting names, separated by commas."""
    return [part.strip() for part in text.split(",")]


def is_address(text: str) -> bool:
    """Whether a text is host:port, with a port that can be called."""
    host, _, port = text.rpartition(":")
    return bool(host) and bool(re.fullmatch(r"\d{1,5}", port)) and 1 <= int(port) <= 65535
