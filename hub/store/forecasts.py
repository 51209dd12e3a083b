"""What hubs have learned of the fleet's speed, for the next start of one; of each subject the newest word is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

import sqlalchemy as sa

from hub.core.forecast import Lesson
from hub.store.database import upsert
from hub.store.schema import forecasts

KEPT_S = 90 * 86_400.0  # what nobody has learned anything new of for so long is forgotten
MAX_LESSONS = 200_000
MAX_SUBJECT_CHARACTERS = 1000  # names in it come from agents; one that is longer is not kept
_log = logging.getLogger("hub.store")


def save(connection: sa.Connection, lessons: Iterable[Lesson], now_s: float) -> None:
    """Keep lessons in place of those before, in one order, so that no two hubs wait for each other."""
    rows = [
        {"subject": subject, "state": json.dumps(one.state).encode(), "saved_at_s": now_s}
        for one in lessons
        if len(subject := json.dumps(one.subject)) <= MAX_SUBJECT_CHARACTERS
    ]
    if rows:
        connection.execute(upsert(connection.engine, forecasts), sorted(rows, key=lambda row: str(row["subject"])))


def load(connection: sa.Connection) -> tuple[Lesson, ...]:
    """All that is kept, the oldest first. What a newer version has written in other words is left out."""
    newest = sa.select(forecasts.c.subject, forecasts.c.state).order_by(forecasts.c.saved_at_s.desc())
    lessons = []
    for subject, state in connection.execute(newest.limit(MAX_LESSONS)):
        try:
            lessons.append(Lesson(tuple(json.loads(subject)), tuple(json.loads(state))))
        except (ValueError, TypeError):
            _log.warning("what was learned cannot be read", extra={"subject": subject[:200]})
    return tuple(reversed(lessons))


def forget_old(connection: sa.Connection, now_s: float) -> None:
    """Remove what is too old, or too much."""
    newest = sa.select(forecasts.c.saved_at_s).order_by(forecasts.c.saved_at_s.desc())
    last_s = connection.execute(newest.offset(MAX_LESSONS).limit(1)).scalar() or 0.0
    connection.execute(sa.delete(forecasts).where(forecasts.c.saved_at_s <= max(now_s - KEPT_S, last_s)))
