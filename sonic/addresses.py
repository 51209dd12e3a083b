"""Addresses and URLs, as settings name them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit


def addresses(text: str) -> list[str]:
    """The hubs that a setting names, separated by commas."""
    return [part.strip() for part in text.split(",")]


def is_address(text: str) -> bool:
    """Whether a text is host:port, with a port that can be called."""
    host, _, port = text.rpartition(":")
    return bool(host) and bool(re.fullmatch(r"\d{1,5}", port)) and 1 <= int(port) <= 65535


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine is behind a name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(address: str) -> str:
    """The host of host:port, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


def is_safe_url(url: str) -> bool:
    """Whether what is fetched there comes from whom the URL names: https, or this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
