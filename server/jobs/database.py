"""The database that holds the job table: a SQLite file, or a PostgreSQL server by URL.

Knows: each one's habits at connecting, and how to make a transaction that nobody else writes beside. Does not know:
what is written (`store.py`). Both take the same SQLAlchemy Core statements.

Connections with the execution option `immediate` are such transactions: what they read stays true until they commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.schema import CreateColumn

from server.errors import BadSetting, DataDirBusy, DataDirUnwritable

# versions before this can corrupt a write-ahead log that two connections check-point at the same time
SAFE_WAL = (3, 51, 3)
WRITERS, SERVERS = 7_116_001, 7_116_002  # numbers of PostgreSQL's advisory locks: who writes, who serves
# no prompt of a client in an error that is logged
HABITS: dict[str, Any] = {"pool_size": 20, "max_overflow": 40, "hide_parameters": True}


@dataclass(frozen=True)
class Database:
    """`journal`: how SQLite writes, or "postgresql"; `held` keeps other servers from the same tables."""

    engine: Engine
    journal: str
    held: Connection | None = None

    def close(self) -> None:
        if self.held is not None:
            self.held.close()
        self.engine.dispose()


def open_database(where: Path | str, metadata: MetaData, schema: int, alone: bool = True) -> Database:
    """`where`: a SQLite file or a `postgresql://` URL. Its tables are there afterwards. `alone`: to the exclusion of
    other servers (who uses a file holds its data folder).

    Raises BadSetting, DataDirUnwritable (not reachable, or written by a newer schema), DataDirBusy.
    """
    if isinstance(where, Path):
        return _open_sqlite(where, metadata, schema)
    return _open_postgresql(where, metadata, schema, alone)


def _open_sqlite(path: Path, metadata: MetaData, schema: int) -> Database:
    journal = "WAL" if sqlite3.sqlite_version_info >= SAFE_WAL else "TRUNCATE"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5.0}, **HABITS)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be a deferred one
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    with _disposed_of_on_failure(engine), engine.execution_options(immediate=True).begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        _check_schema(str(path), found, schema)
        metadata.create_all(connection)
        _add_what_is_missing(connection, metadata)
        connection.exec_driver_sql(f"PRAGMA user_version={schema}")
    return Database(engine, journal)


def _open_postgresql(address: str, metadata: MetaData, schema: int, alone: bool) -> Database:
    try:
        url = make_url(address)
        if url.get_backend_name() != "postgresql":
            raise BadSetting("COGVIDEOX_DATABASE_URL: must begin with postgresql://")
        engine = create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, **HABITS)
    except ArgumentError:
        raise BadSetting("COGVIDEOX_DATABASE_URL: must look like postgresql://user:password@host/database") from None
    except ModuleNotFoundError:
        raise BadSetting("PostgreSQL needs its driver: pip install 'cogvideox-server[postgres]'") from None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get("immediate", False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")

    name = f"{url.host or 'localhost'}/{url.database}"
    with _disposed_of_on_failure(engine) as undo:
        held = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        undo.callback(held.close)
        if alone and not held.execute(text(f"SELECT pg_try_advisory_lock({SERVERS})")).scalar_one():
            raise DataDirBusy(f"another server is using the database {name}")
        with engine.execution_options(immediate=True).begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            found = connection.exec_driver_sql("SELECT max(version) FROM schema_version").scalar() or 0
            _check_schema(name, found, schema)
            metadata.create_all(connection)
            _add_what_is_missing(connection, metadata)
            if found < schema:
                connection.exec_driver_sql(f"INSERT INTO schema_version VALUES ({schema})")
    return Database(engine, "postgresql", held)


@contextmanager
def _disposed_of_on_failure(engine: Engine) -> Iterator[ExitStack]:
    """`DataDirUnwritable` for what the database does not like; nothing of it stays open then."""
    undo = ExitStack()
    try:
        yield undo
    except BaseException as e:
        undo.close()
        engine.dispose()
        if isinstance(e, DBAPIError):
            name = f"{engine.url.host or engine.url.query.get('host', 'localhost')}/{engine.url.database}"
            reason = str(e.orig).strip().splitlines()[0] if e.orig else type(e).__name__
            raise DataDirUnwritable(f"the database {name} cannot be used: {reason}") from None
        raise


def _check_schema(name: str, found: int, schema: int) -> None:
    if found > schema:
        raise DataDirUnwritable(f"{name} was written by a newer version of this server (schema {found})")


def _add_what_is_missing(connection: Connection, metadata: MetaData) -> None:
    """Columns and indexes of later schemas; nullable or with a default, so that older rows need nothing."""
    for table in metadata.sorted_tables:
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                ddl = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {ddl}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)
