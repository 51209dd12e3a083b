"""Opening the database: the engine, its settings, and bringing the schema up to date.

All SQL that only one kind of database understands is in this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite


def open_database(url: str) -> sa.Engine:
    """Connect, and bring the schema up to date. Raises sqlalchemy.exc.SQLAlchemyError."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    migrate(engine)
    return engine


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Apply every migration up to `revision`, all or nothing."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def insert_ignoring(engine: sa.Engine, table: sa.Table) -> Any:
    """An INSERT that leaves an existing row as it is; `rowcount` tells."""
    dialect = sqlite if engine.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def is_local(engine: sa.Engine) -> bool:
    """Whether a statement is carried out by the thread that asks for it, and no other machine is waited for."""
    return engine.dialect.name == "sqlite"


def passing(engine: sa.Engine) -> sa.Engine:
    """The same database, for commits that survive the end of this process, but a power loss only with the next commit."""
    if engine.dialect.name == "sqlite":
        second = sa.create_engine(engine.url)
        sa.event.listen(second, "connect", _set_up_sqlite)
        sa.event.listen(second, "connect", _pass_quickly)
        sa.event.listen(second, "begin", _begin_sqlite)
        return second
    second = sa.create_engine(engine.url)
    sa.event.listen(
        second, "begin", lambda connection: connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
    )
    return second


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to say, see below
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _pass_quickly(connection: Any, _record: Any) -> None:
    for pragma in ("synchronous=NORMAL", "busy_timeout=0", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")
