"""The database that holds the job table: a SQLite file, or a PostgreSQL server by URL.

Knows: how to set up a connection of either kind, and how to begin a transaction that excludes other writers. Does not
know: what is written (`store.py`). SQLite and PostgreSQL accept the same SQLAlchemy Core statements.

A connection with the execution option `immediate` begins a transaction that excludes other writers: everything that the
transaction reads stays valid until it commits.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from server.errors import BadSetting, DataDirBusy, DataDirUnwritable
from server.private import private_file

# earlier versions can corrupt a write-ahead log when two connections run a checkpoint at the same time
SAFE_WAL = (3, 51, 3)
JOURNAL_BYTES = 64 * 2**20  # bytes; after a checkpoint, a longer journal is truncated to this size
WRITERS, SERVERS = 7_116_001, 7_116_002  # PostgreSQL's advisory locks: one writer at a time, one server at a time
TAKE = text(f"SELECT pg_try_advisory_lock({SERVERS})")
# after a broken connection, the database may keep our old session and its lock for hours
END_OUR_OWN = text(f"""
    SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND objid = {SERVERS} AND granted AND datname = current_database()
    AND application_name = current_setting('application_name') AND pid <> pg_backend_pid()
""")
# hide_parameters keeps prompts out of logged errors
HABITS: dict[str, Any] = {"pool_size": 20, "max_overflow": 40, "hide_parameters": True}


@dataclass
class Database:
    """`alone`: a lock keeps other servers from using the same tables."""

    engine: Engine
    alone: bool = False
    lost: str = ""  # why this server must no longer use the tables
    _held: Connection | None = None  # the session of this connection holds the lock

    def hold(self) -> None:
        """Takes the lock again if the database session that held it has ended. Raises DataDirBusy when another server
        has taken the lock; every later call raises DataDirBusy too. Raises OperationalError when the database is
        unavailable."""
        if self.lost:
            raise DataDirBusy(self.lost)
        if not self.alone or self._still_holds():
            return
        with ExitStack() as undo:
            held = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            undo.callback(held.close)
            if not held.execute(TAKE).scalar_one():
                held.execute(END_OUR_OWN)
                if not held.execute(TAKE).scalar_one():
                    self.lost = f"another server is using the database {_name(self.engine)}"
                    raise DataDirBusy(self.lost)
            undo.pop_all()
        self._held = held

    def _still_holds(self) -> bool:
        if self._held is None:
            return False
        try:
            self._held.execute(text("SELECT 1"))
        except DBAPIError:
            self._held.invalidate()  # the pool must not reuse this connection
            self._let_go()
        return self._held is not None

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def close(self) -> None:
        self._let_go()
        self.engine.dispose()


def open_database(where: Path | str, metadata: MetaData, schema: int, alone: bool = True) -> Database:
    """Opens a SQLite file or a `postgresql://` URL and creates the tables. `alone`: excludes other servers (the data
    folder's lock does that for a SQLite file).

    Raises BadSetting, DataDirUnwritable (not reachable, or has another schema), DataDirBusy.
    """
    if isinstance(where, Path):
        return _open_sqlite(where, metadata, schema)
    return _open_postgresql(where, metadata, schema, alone)


def _open_sqlite(path: Path, metadata: MetaData, schema: int) -> Database:
    journal = "WAL" if sqlite3.sqlite_version_info >= SAFE_WAL else "TRUNCATE"
    try:
        for file in (path, *(p for p in _beside(path) if p.exists())):
            private_file(file)  # SQLite creates its further files beside the database with the same permissions
    except OSError as e:
        raise DataDirUnwritable(f"the job table {path} cannot be used: {e.strerror}") from None
    # a URL object, because in a URL string, a `?` in the path would begin the query
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 5.0}, **HABITS)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be deferred
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    database = Database(engine)
    with _disposed_of_on_failure(database), engine.execution_options(immediate=True).begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        _check_schema(str(path), found, schema)
        metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version={schema}")
    return database


def _open_postgresql(address: str, metadata: MetaData, schema: int, alone: bool) -> Database:
    try:
        url = make_url(address)
        if url.get_backend_name() != "postgresql":
            raise BadSetting("COGVIDEOX_DATABASE_URL: must begin with postgresql://")
        name = {"application_name": f"cogvideox {uuid.uuid4().hex}"}
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=name, **HABITS
        )
    except ArgumentError:
        raise BadSetting("COGVIDEOX_DATABASE_URL: must look like postgresql://user:password@host/database") from None
    except ModuleNotFoundError:
        raise BadSetting("PostgreSQL needs its driver: pip install 'cogvideox-server[postgres]'") from None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get("immediate", False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")

    database = Database(engine, alone)
    with _disposed_of_on_failure(database):
        database.hold()
        with engine.execution_options(immediate=True).begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            found = connection.exec_driver_sql("SELECT max(version) FROM schema_version").scalar() or 0
            _check_schema(_name(engine), found, schema)
            metadata.create_all(connection)
            if found < schema:
                connection.exec_driver_sql(f"INSERT INTO schema_version VALUES ({schema})")
    return database


@contextmanager
def _disposed_of_on_failure(database: Database) -> Iterator[None]:
    """Raises DataDirUnwritable for a database error; closes the database on any error."""
    try:
        yield
    except BaseException as e:
        database.close()
        if isinstance(e, DBAPIError):
            reason = str(e.orig).strip().splitlines()[0] if e.orig else type(e).__name__
            raise DataDirUnwritable(f"the database {_name(database.engine)} cannot be used: {reason}") from None
        raise


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")]


def _name(engine: Engine) -> str:
    if engine.url.get_backend_name() == "sqlite":
        return str(engine.url.database)
    return f"{engine.url.host or engine.url.query.get('host', 'localhost')}/{engine.url.database}"


def _check_schema(name: str, found: int, schema: int) -> None:
    """`found`: 0 for a new database."""
    if found > schema:
        raise DataDirUnwritable(f"{name} was written by a newer version of this server (schema {found})")
    if 0 < found < schema:
        wants = f"this version needs schema {schema} and starts with a new one"
        raise DataDirUnwritable(f"{name} was written by an older version of this server (schema {found}); {wants}")
