"""What a client shows a hub: an API key, or an access token. In a file or the environment, never an option.

The file is read anew for each call, so that whoever renews a token or rotates a key only has to replace it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sonic.exceptions import BadSettings, FileTrouble

KEY_VARIABLE = "SONIC_API_KEY"
MAX_BYTES = 8192


@dataclass(frozen=True)
class Credentials:
    """Where the credential is; `api_key_file` and `token_file` go before the environment."""

    api_key_file: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if self.api_key_file and self.token_file:
            raise BadSettings("api_key_file and token_file are both set; a call carries one of the two")

    def metadata(self, environ: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
        """What a call carries; empty when there is none. Raises FileTrouble, BadSettings."""
        environ = os.environ if environ is None else environ
        if self.api_key_file:
            text = _line(self.api_key_file, "api_key_file")
        elif self.token_file:
            text = _line(self.token_file, "token_file")
        else:
            text = environ.get(KEY_VARIABLE, "").strip()
            if text and not _is_word(text):
                raise BadSettings(f"{KEY_VARIABLE} holds no API key: it has spaces or signs that no key has")
        return (("authorization", f"Bearer {text}"),) if text else ()


def _line(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileTrouble(f"{name} {path} cannot be read: {error.strerror}") from error
    text = data.decode("ascii", "replace").strip()
    if not _is_word(text) or len(data) > MAX_BYTES:
        raise FileTrouble(f"{name} {path} does not hold one credential on a line of its own, and nothing else")
    return text


def _is_word(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
