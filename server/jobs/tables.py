"""The tables, and how a Job becomes a row and back.

Knows: columns, SQLite's habits at connecting. Does not know: which writes are allowed (`store.py`).
"""

from __future__ import annotations

import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.schema import CreateColumn

from pipelines.request import GenerationRequest
from server.errors import DataDirUnwritable
from server.jobs.job import Artifact, Job, JobError, Status, Webhook

SCHEMA = 2
# versions before this can corrupt a write-ahead log that two connections check-point at the same time
SAFE_WAL = (3, 51, 3)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),  # order of arrival; a requeued job keeps its place
    Column("id", String, nullable=False, unique=True),
    Column("facade", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("model", String, nullable=False),
    Column("status", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("stage", String),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("eta", Float),
    Column("memory", String, nullable=False),
    Column("request", JSON, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("plan", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("video", JSON(none_as_null=True)),
    Column("poster", JSON(none_as_null=True)),
    Column("manifest", JSON(none_as_null=True)),
    Column("timings", JSON, nullable=False),
    Column("deaths", JSON, nullable=False),
    # since schema 2
    Column("owner", String, nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("keep_seconds", Float),
    Column("webhook", JSON(none_as_null=True)),
    Index("jobs_by_status", "status", "n"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("level", String, nullable=False),
    Column("message", String, nullable=False),
)

# what is still to be told to webhooks: a row leaves when it was told, or given up
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("event", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", Float, nullable=False, index=True),
)


def to_row(job: Job) -> dict[str, Any]:
    row = asdict(job)
    row["status"] = job.status.value
    row["deaths"] = list(job.deaths)
    del row["number"]  # the table's to give
    return row


def to_job(row: Row[Any]) -> Job:
    d = dict(row._mapping)
    d["number"] = d.pop("n")
    d["status"] = Status(d["status"])
    d["request"] = GenerationRequest.from_dict(d["request"])
    d["error"] = JobError(**d["error"]) if d["error"] else None
    for name in ("video", "poster", "manifest"):
        d[name] = Artifact(**d[name]) if d[name] else None
    d["deaths"] = tuple(d["deaths"])
    if d["webhook"]:
        d["webhook"] = Webhook(**{**d["webhook"], "events": tuple(d["webhook"]["events"])})
    return Job(**d)


def open_sqlite(path: Path) -> tuple[Engine, str]:
    """The engine, tables made, and the journal mode chosen. Raises DataDirUnwritable for a file of a newer schema.

    Connections with the execution option `immediate` take the write lock when they begin, so that what they read
    stays true until they commit.
    """
    journal = "WAL" if sqlite3.sqlite_version_info >= SAFE_WAL else "TRUNCATE"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5.0}, pool_size=20, max_overflow=40)

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

    with engine.execution_options(immediate=True).begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found > SCHEMA:
            raise DataDirUnwritable(f"{path} was written by a newer version of this server (schema {found})")
        metadata.create_all(connection)
        _add_missing_columns(connection)
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")
    return engine, journal


def _add_missing_columns(connection: Connection) -> None:
    """What later schemas added to `jobs`; nullable or with a default, so that older rows need nothing."""
    there = {column["name"] for column in inspect(connection).get_columns(jobs.name)}
    for column in jobs.columns:
        if column.name not in there:
            ddl = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {jobs.name} ADD COLUMN {ddl}")
