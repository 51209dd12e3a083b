"""Keeps what a hub learns of its fleet's speed, so that its next start need not learn it again.

It is saved now and then, a part at a time: what a hub that is killed has learned since is learned again.
"""

from __future__ import annotations

import asyncio
import logging
import time

import sqlalchemy as sa

from hub.core.forecast import Forecasts, Lesson
from hub.store import forecasts as stored

SAVE_INTERVAL_S = 10.0
MAX_AT_ONCE = 500  # lessons in one transaction; copying them holds the hub up for a few milliseconds
_log = logging.getLogger("hub.learned")


class Learned:
    """Of one hub."""

    def __init__(self, database: sa.Engine, forecasts: Forecasts) -> None:
        self._database = database
        self._forecasts = forecasts

    async def run(self) -> None:
        """Save now and then what is new, and forget once what is old."""
        try:
            await asyncio.to_thread(self._forget)
        except sa.exc.SQLAlchemyError as error:
            _log.warning("old forecasts stay", extra={"error": str(error.__cause__ or error)})
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            await self.save()

    async def save(self) -> None:
        """Save all that is new; what cannot be saved now is the next time."""
        while lessons := self._forecasts.take_lessons(MAX_AT_ONCE):
            try:
                await asyncio.to_thread(self._save, lessons)
            except sa.exc.SQLAlchemyError as error:
                self._forecasts.give_back(lessons)
                _log.warning("forecasts could not be saved", extra={"error": str(error.__cause__ or error)})
                return

    def _save(self, lessons: list[Lesson]) -> None:
        with self._database.begin() as connection:
            stored.save(connection, lessons, time.time())

    def _forget(self) -> None:
        with self._database.begin() as connection:
            stored.forget_old(connection, time.time())
