"""Deadlines as people write them: a duration from now (90s, 10m, 1h30m, 2d), or a time (2026-05-01T12:00:00Z)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

WANTED = "a duration such as 10m, 2h or 1h30m, or a time such as 2026-05-01T12:00:00Z"
TIME_WANTED = "a time such as 2026-05-01T12:00:00Z"
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
_PART = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d) ?")


def parse(text: str) -> timedelta | datetime:
    """Either kind. Raises ValueError."""
    duration = timedelta()
    at = 0
    while part := _PART.match(text, at):
        duration += timedelta(**{_UNITS[part[2]]: float(part[1])})
        at = part.end()
    if 0 < at == len(text):
        return duration
    return parse_time(text)


def parse_time(text: str) -> datetime:
    """A time with its offset, as RFC 3339 has it. Raises ValueError."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("the time has no offset")
    try:
        when.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is not within the years 1 to 9999 of UTC") from None
    return when
