"""Opening the database: the engine, its settings, and bringing the schema up to date.

All SQL that only one kind of database understands is in this module.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite

from hub.config import InvalidConfig

_MIGRATING = 0x50A1C  # the advisory lock of whoever changes the schema
_NAMED = 0x50A1D  # the class of the advisory locks on names
# A dead line to PostgreSQL is noticed within half a minute; the system itself would take a quarter of an hour.
_NOTICE_CUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_CHANGES = "sonic_changes"
_log = logging.getLogger("hub.store")


def open_database(url: str) -> sa.Engine:
    """Connect, and bring the schema up to date. Raises InvalidConfig, sqlalchemy.exc.SQLAlchemyError."""
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "connect", _set_up_postgresql)
    try:
        migrate(engine)
    except sa.exc.OperationalError as error:
        if shared(engine):
            raise InvalidConfig(f"database_url names a database that does not answer: {error.orig}") from error
        raise
    except sa.exc.ProgrammingError as error:
        raise InvalidConfig(f"database_url names a database that cannot be used: {error.orig}") from error
    return engine


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Apply every migration up to `revision`, all or nothing; hubs that start together wait for each other.

    Migrations only add, so a schema that a newer hub has made serves this one too. Raises InvalidConfig.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    with engine.begin() as connection:
        if shared(engine):
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
        found = MigrationContext.configure(connection).get_current_revision()
        if found is None or found in known:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        elif re.fullmatch(r"\d{4}", found) and found > str(scripts.get_current_head()):
            _log.warning("the database is of a newer version; hubs of both can serve", extra={"schema": found})
        else:
            raise InvalidConfig(f"database_url names a database with the schema {found!r}, which is none of a hub")


def shared(engine: sa.Engine) -> bool:
    """Whether several hubs can work on this database."""
    return engine.dialect.name == "postgresql"


def sqlite_file(url: str) -> Path | None:
    """The file behind a URL of SQLite; None for any other database, and for one in memory."""
    parsed = _parsed(url)
    named = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
    return Path(str(parsed.database)).resolve() if named else None


def insert_ignoring(engine: sa.Engine, table: sa.Table) -> Any:
    """An INSERT that leaves an existing row as it is; `rowcount` tells."""
    return _insert_ignoring(engine.dialect.name, table)


def insert_returning(engine: sa.Engine, table: sa.Table) -> Any:
    """`insert_ignoring` that returns the rows that it has added."""
    return _insert_returning(engine.dialect.name, table)


@functools.cache
def _insert_ignoring(dialect: str, table: sa.Table) -> Any:
    made = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    return made.on_conflict_do_nothing().execution_options(preserve_rowcount=True)


@functools.cache
def _insert_returning(dialect: str, table: sa.Table) -> Any:
    return _insert_ignoring(dialect, table).returning(*table.c)


def upsert(engine: sa.Engine, table: sa.Table) -> Any:
    """An INSERT that takes the place of a row with the same key."""
    new = (sqlite if engine.dialect.name == "sqlite" else postgresql).insert(table)
    rest = {column.name: new.excluded[column.name] for column in table.c if not column.primary_key}
    return new.on_conflict_do_update(index_elements=list(table.primary_key), set_=rest)


def clock_s() -> sa.ColumnElement[float]:
    """The clock of a shared database: the one that all hubs can see."""
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


def snapshot(connection: sa.Connection) -> None:
    """Let all queries of the transaction that begins see one state of a shared database; on SQLite they do anyway."""
    if shared(connection.engine):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def changing(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A transaction that writes by what it has read: SQLite waits for its turn before it reads, instead of failing."""
    return engine.execution_options(**{_CHANGES: True}).begin()


def notify(connection: sa.Connection, channel: str, payload: str) -> None:
    """Tell whoever listens, if this transaction is committed."""
    connection.execute(sa.select(sa.func.pg_notify(channel, payload)))


def lock_names(connection: sa.Connection, names: Iterable[str]) -> None:
    """Let other transactions on a shared database that lock one of these names wait until this one has ended."""
    for name in sorted(set(names)):  # in one order, so that none waits for another that waits for it
        key = sa.func.pg_advisory_xact_lock(_NAMED, sa.func.hashtext(sa.bindparam("name", name, sa.String)))
        connection.execute(sa.select(key))


def listening_to(engine: sa.Engine) -> dict[str, Any]:
    """The arguments of psycopg.connect for a connection that waits, and notices when the line is dead."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    return {**_NOTICE_CUTS, **arguments, "autocommit": True}


def _parsed(url: str | sa.URL) -> sa.URL:
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise InvalidConfig("database_url is no URL; postgresql://USER@HOST/NAME is wanted, or none") from error


def _engine(url: str | sa.URL) -> sa.Engine:
    parsed = _parsed(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        kind = parsed.get_backend_name()
        raise InvalidConfig(f"database_url is one of {kind}; a hub works with PostgreSQL, and alone with SQLite")
    if parsed.get_backend_name() == "sqlite":
        return sa.create_engine(parsed)
    try:
        return sa.create_engine(parsed, pool_pre_ping=True, connect_args=_NOTICE_CUTS)
    except ImportError as error:
        needed = "psycopg is needed, with its library; run: pip install 'sonic-fleet[postgresql]'"
        raise InvalidConfig(f"database_url is one of PostgreSQL, for which {needed}") from error


def is_local(engine: sa.Engine) -> bool:
    """Whether a statement is carried out by the thread that asks for it, and no other machine is waited for."""
    return engine.dialect.name == "sqlite"


def impatient(engine: sa.Engine, durable: bool) -> sa.Engine:
    """A local database that refuses to write at once while somebody else does.

    Commits that are not `durable` survive the end of this process, and a power loss with the next that is.
    """
    second = _engine(engine.url)
    sa.event.listen(second, "connect", _set_up_sqlite)
    sa.event.listen(second, "connect", _never_wait)
    if not durable:
        sa.event.listen(second, "connect", _leave_the_disk)
    sa.event.listen(second, "begin", _begin_sqlite)
    return second


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to say, see below
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _never_wait(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA busy_timeout=0")


def _leave_the_disk(connection: Any, _record: Any) -> None:
    for pragma in ("synchronous=NORMAL", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    connection.execute("SET lock_timeout = '5s'")
    connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    if connection.get_execution_options().get(_CHANGES):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("BEGIN")  # it takes no lock and no time; SQLAlchemy would take as long as for a query
