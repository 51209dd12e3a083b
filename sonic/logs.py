"""How the hub and the agents log: readable for a person at a terminal, one JSON object a line for a machine."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

Format = Literal["auto", "json", "text"]
_OURS = ("sonic", "hub", "agent", "sonic_runtime")
_NO_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure(format: Format = "auto", level: str = "info") -> None:
    """Send every log to stderr; `auto` is text on a terminal and JSON elsewhere.

    `level` is that of our own packages; of the libraries below them only warnings are told.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = format == "text" or (format == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


def extra_of(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonLines(logging.Formatter):
    """ts, level, logger and message, then whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in extra_of(record).items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Time, level, logger and message; what was passed as `extra` as name=value after it."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extra = "".join(f" {name}={value}" for name, value in extra_of(record).items())
        # What others say must not look like lines of ours, nor steer a terminal.
        line = f"{clock} {record.levelname.lower():8} {record.name}: {record.getMessage()}{extra}"
        line = line.translate(_NO_CONTROL)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
