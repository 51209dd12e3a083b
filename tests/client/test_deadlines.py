"""Deadlines as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sonic import deadlines

BEYOND = ("0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00")  # of what UTC can be written with four digits


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("10 min", timedelta(minutes=10)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("2d 1h", timedelta(hours=49)),
        ("2026-05-01T12:00:00Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("2026-05-01T12:00:00+02:00", datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_durations_and_times_are_read(text: str, meant: timedelta | datetime) -> None:
    assert deadlines.parse(text) == meant


@pytest.mark.parametrize(
    "text", ["", "10", "m", "10x", "10m!", "-5m", "soon", "2026-05-01T12:00:00", "2026-05-01", *BEYOND]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        deadlines.parse(text)
