"""Statements whose SQL is made once: to look it up each time takes longer than to carry it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa


class Prepared:
    """An INSERT or UPDATE, for values that drivers take as they are: text, numbers, bytes and None."""

    def __init__(self, statement: sa.Insert | sa.Update) -> None:
        self._statement = statement
        self._made: dict[str, tuple[str, Sequence[str] | None, Mapping[str, Any]]] = {}

    def execute(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Carry it out for each row, and count the rows that it has found. Raises sqlalchemy.exc.SQLAlchemyError."""
        sql, order, own = self._made.get(connection.dialect.name) or self._make(connection.dialect)
        if order is None:
            return connection.exec_driver_sql(sql, [{**own, **row} for row in rows]).rowcount
        filled = [tuple(row[name] if name in row else own[name] for name in order) for row in rows]
        return connection.exec_driver_sql(sql, filled).rowcount

    def _make(self, dialect: sa.Dialect) -> tuple[str, Sequence[str] | None, Mapping[str, Any]]:
        compiled: Any = self._statement.compile(dialect=dialect)
        made = self._made[dialect.name] = (str(compiled), compiled.positiontup, compiled.params)
        return made
