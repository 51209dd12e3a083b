"""What one hub asks of another: only the one that holds a node's session can speak to it, and knows how it is now.

Question and answer are notes on the bulletin. Neither is kept: a favour that nobody answers in time was perhaps done.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import sqlalchemy as sa

from hub import exceptions
from hub.store.bulletin import Answer, Bulletin, Favour, Note

ANSWER_WITHIN_S = 3.0


class Favours:
    """Of one hub: those that it waits for, and those that it does for others."""

    def __init__(
        self, hub_id: str, database: sa.Engine, bulletin: Bulletin, do: Callable[[Favour], Awaitable[str]]
    ) -> None:
        """`do` does a favour; it returns why not, or nothing."""
        self._hub_id = hub_id
        self._database = database
        self._bulletin = bulletin
        self._do = do
        self._awaited: dict[str, asyncio.Future[str]] = {}

    async def ask(self, hub_id: str, node_id: str, fault: bytes = b"") -> str:
        """Have a hub do a favour; returns why it did not, or nothing. Raises NotNow when it does not answer."""
        favour = Favour(uuid.uuid4().hex, hub_id, node_id, fault)
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._awaited[favour.favour_id] = answered
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._note(lambda connection: self._bulletin.ask(connection, favour))
                return await answered
        except TimeoutError:
            silent = (
                f"hub {hub_id}, which holds the session of node {node_id}, has not answered for {ANSWER_WITHIN_S:g} s"
            )
            raise exceptions.NotNow(f"{silent}; try again, or call that hub", 5.0) from None
        finally:
            del self._awaited[favour.favour_id]

    async def heard(self, note: Note) -> None:
        """Do what is asked of this hub, and take what it is answered. Raises sqlalchemy.exc.SQLAlchemyError."""
        for answer in note.answers:
            waiting = self._awaited.get(answer.favour_id)
            if waiting and not waiting.done():
                waiting.set_result(answer.refusal)
        for favour in note.favours:
            if favour.hub_id == self._hub_id:
                answer = Answer(favour.favour_id, await self._do(favour))
                await self._note(lambda connection: self._bulletin.answer(connection, answer))  # noqa: B023

    async def _note(self, write: Callable[[sa.Connection], None]) -> None:
        def work() -> None:
            with self._database.begin() as connection:
                write(connection)

        await asyncio.to_thread(work)
