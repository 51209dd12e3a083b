"""The audit log: what operators do, and what happens to credentials. One JSON object a line, append-only.

Lines go to the hub's log like any other, under the name `audit`, and to a file that is only ever appended to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hub.server import callers

MAX_CHARACTERS = 200  # of a subject, an outcome and each detail, which may be a caller's words
_FIELDS = ("who", "peer", "action", "subject", "outcome")
_log = logging.getLogger("audit")


def record(where: callers.Context | str, action: str, subject: str, outcome: str = "done", **detail: object) -> None:
    """Note an action on a subject (never a secret) and how it ended; `where` is the call, or the address of its peer.

    Who acts is who makes the call that is carried out.
    """
    peer = where if isinstance(where, str) else unquote(where.peer())
    values = (callers.who(), peer, action, subject[:MAX_CHARACTERS], outcome[:MAX_CHARACTERS])
    detail = {name: value[:MAX_CHARACTERS] if isinstance(value, str) else value for name, value in detail.items()}
    about: dict[str, object] = dict(zip(_FIELDS, values, strict=True))
    _log.info(
        "%s %s: %s", action, about["subject"], about["outcome"], extra=about | ({"detail": detail} if detail else {})
    )


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Append every line to a file of mode 0600, as long as the context is open. Raises OSError."""
    handler = _Lines(path)
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()


class _Lines(logging.handlers.WatchedFileHandler):
    """A file that was moved away is begun anew, so that it can be rotated."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")}
        line |= {name: getattr(record, name) for name in (*_FIELDS, "detail") if hasattr(record, name)}
        return json.dumps(line, default=str)
