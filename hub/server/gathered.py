"""Many small questions to the store, asked together: what comes in while a query runs goes into the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

import sqlalchemy as sa

from hub import exceptions
from hub.store.database import is_local

K = TypeVar("K")
V = TypeVar("V")
MOST_AT_ONCE = 2000


class Gathered(Generic[K, V]):
    """Answers by key, each as new as the question."""

    def __init__(self, database: sa.Engine, read: Callable[[sa.Connection, Collection[K]], dict[K, V]]) -> None:
        self._database = database
        self._read = read
        self._local = is_local(database)  # then asking takes less time than handing over to a thread
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._work: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """The answer, or None. Raises NotNow."""
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
            if self._work is None:
                self._work = asyncio.create_task(self._answer(), name="gathered reads")
        try:
            return await asyncio.shield(waiting)
        except sa.exc.SQLAlchemyError as error:
            raise exceptions.NotNow("the hub's store cannot be read at the moment", retry_after_s=5.0) from error

    async def get_all(self, keys: Collection[K]) -> dict[K, V]:
        """The answers that there are. Raises NotNow."""
        try:
            return self._ask(keys) if self._local else await asyncio.to_thread(self._ask, keys)
        except sa.exc.SQLAlchemyError as error:
            raise exceptions.NotNow("the hub's store cannot be read at the moment", retry_after_s=5.0) from error

    async def _answer(self) -> None:
        while self._waiting:
            asked = {key: self._waiting.pop(key) for key in list(self._waiting)[:MOST_AT_ONCE]}
            try:
                found = self._ask(list(asked)) if self._local else await asyncio.to_thread(self._ask, list(asked))
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
                continue
            for key, future in asked.items():
                future.set_result(found.get(key))
        self._work = None

    def _ask(self, keys: Collection[K]) -> dict[K, V]:
        with self._database.connect() as connection:
            return self._read(connection, keys)
