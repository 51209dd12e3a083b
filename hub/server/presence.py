"""Sessions that begin and end, noted together: a hub that starts or stops has no time for a commit of each."""

from __future__ import annotations

import asyncio
import logging
import time

import sqlalchemy as sa

from hub import exceptions
from hub.store import hubs, records
from hub.store.bulletin import Bulletin
from hub.store.hubs import Farewell, Greeting

MOST_AT_ONCE = 2000
_log = logging.getLogger("hub.fleet")


class Presence:
    """What comes in while one transaction is written goes into the next one."""

    def __init__(self, database: sa.Engine, bulletin: Bulletin, hub_id: str) -> None:
        self._database = database
        self._bulletin = bulletin
        self._hub_id = hub_id
        self._begun: list[tuple[Greeting, asyncio.Future[list[str]]]] = []
        self._ended: list[Farewell] = []
        self._work: asyncio.Task[None] | None = None

    async def begin(self, greeting: Greeting) -> list[str]:
        """Store that a session is here. The answer: jobs that other hubs may have given the node, by the store.

        Raises NotNow.
        """
        stored: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._begun.append((greeting, stored))
        self._write_soon()
        try:
            return await stored
        except sa.exc.SQLAlchemyError as error:
            raise exceptions.NotNow("the hub's store takes no writes at the moment", 5.0) from error
        except asyncio.CancelledError:
            self.end(Farewell(greeting.node_id, greeting.session_id, time.time(), leaving=False))
            raise

    def end(self, farewell: Farewell) -> None:
        """Let it be stored soon that a session is here no more."""
        self._ended.append(farewell)
        self._write_soon()

    async def noted(self) -> None:
        """Wait until all that was said is stored."""
        if self._work:
            await self._work

    def _write_soon(self) -> None:
        if self._work is None:
            self._work = asyncio.create_task(self._write_all(), name="presence")

    async def _write_all(self) -> None:
        while self._begun or self._ended:
            if self._begun:
                some, self._begun = self._begun[:MOST_AT_ONCE], self._begun[MOST_AT_ONCE:]
                await self._write_begun(dict(some))
            if self._ended:
                gone, self._ended = self._ended[:MOST_AT_ONCE], self._ended[MOST_AT_ONCE:]
                await self._write_ended(gone)
        self._work = None

    async def _write_begun(self, some: dict[Greeting, asyncio.Future[list[str]]]) -> None:
        try:
            held = await asyncio.to_thread(self._begin, list(some))
        except Exception as error:
            for stored in some.values():
                if not stored.done():
                    stored.set_exception(error)
            return
        for greeting, stored in some.items():
            if not stored.done():
                stored.set_result(held.get(greeting.node_id, []))

    async def _write_ended(self, some: list[Farewell]) -> None:
        try:
            await asyncio.to_thread(self._end, some)
        except sa.exc.SQLAlchemyError as error:  # the next session of the node puts it right
            extra = {"count": len(some), "error": str(error.__cause__ or error)}
            _log.warning("ended sessions could not be noted", extra=extra)

    def _begin(self, some: list[Greeting]) -> dict[str, list[str]]:
        nodes = [greeting.node_id for greeting in some]
        with self._database.begin() as connection:
            hubs.begin_sessions(connection, some, self._hub_id, time.time())
            self._bulletin.tell(connection, nodes=nodes)
            return records.held_by(connection, nodes) if self._bulletin.shared else {}

    def _end(self, some: list[Farewell]) -> None:
        with self._database.begin() as connection:
            hubs.end_sessions(connection, some)
            self._bulletin.tell(connection, nodes=[farewell.node_id for farewell in some])
