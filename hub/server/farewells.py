"""Sessions that have ended, noted together: a hub that stops ends thousands, and cannot wait for a commit of each."""

from __future__ import annotations

import asyncio
import logging

import sqlalchemy as sa

from hub.store import hubs
from hub.store.bulletin import Bulletin
from hub.store.hubs import Farewell

MOST_AT_ONCE = 2000
_log = logging.getLogger("hub.fleet")


class Farewells:
    """What comes in while one transaction is written goes into the next one."""

    def __init__(self, database: sa.Engine, bulletin: Bulletin) -> None:
        self._database = database
        self._bulletin = bulletin
        self._waiting: list[Farewell] = []
        self._work: asyncio.Task[None] | None = None

    def note(self, farewell: Farewell) -> None:
        """Let it be stored soon."""
        self._waiting.append(farewell)
        if self._work is None:
            self._work = asyncio.create_task(self._write_all(), name="farewells")

    async def noted(self) -> None:
        """Wait until all that was noted is stored."""
        if self._work:
            await self._work

    async def _write_all(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                await asyncio.to_thread(self._write, some)
            except sa.exc.SQLAlchemyError as error:  # the next session of the node puts it right
                extra = {"count": len(some), "error": str(error.__cause__ or error)}
                _log.warning("ended sessions could not be noted", extra=extra)
        self._work = None

    def _write(self, some: list[Farewell]) -> None:
        with self._database.begin() as connection:
            hubs.end_sessions(connection, some)
            self._bulletin.tell(connection, nodes=[farewell.node_id for farewell in some])
