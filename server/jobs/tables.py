"""The tables, and the conversion between a Job and its row. Does not know which writes are allowed (`store.py`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
)

from pipelines.request import GenerationRequest
from server.jobs.job import Job, JobError, Status, Webhook
from server.media.artifact import Artifact

SCHEMA = 5  # increase with every change of a column or its JSON; a server refuses tables with another number

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),  # in order of arrival; a requeued job keeps its place
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
    Column("memo", JSON, nullable=False),
    Column("plan", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("video", JSON(none_as_null=True)),
    Column("poster", JSON(none_as_null=True)),
    Column("manifest", JSON(none_as_null=True)),
    Column("timings", JSON, nullable=False),
    Column("deaths", JSON, nullable=False),
    Column("owner", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("keep_seconds", Float),
    Column("webhook", JSON(none_as_null=True)),
    Column("idempotency", String),  # the client's name for a request, so that a retry does not create a second job
    Column("start_by", Float),
    Column("end_by", Float),
    Column("share", Float, nullable=False),  # the part of the work that is done; never decreases
    Index("jobs_once", "facade", "owner", "idempotency", unique=True),
    Index("jobs_by_owner", "owner", "created_at"),
    Index("jobs_by_owner_and_state", "owner", "status", "n"),
    Index("jobs_by_status", "status", "n"),
    Index("jobs_to_list", "facade", "owner", "n"),  # without this index, a list would read the jobs of all other keys
    Index("jobs_to_start", "status", "start_by"),
    Index("jobs_to_end", "status", "end_by"),
    Index("jobs_in_turn", "status", "priority", "owner", "n"),  # covers the query for positions in the queue
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

# each key's last turn, counted in claims; the key with the lowest number is next
turns = Table("turns", metadata, Column("owner", String, primary_key=True), Column("served", Integer, nullable=False))

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False),  # SHA-256 of the whole key, hexadecimal
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("at_once", Integer),
    Column("daily", Integer),
)

# webhook events to send; a row is deleted after it was sent or given up
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("event", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    # `outbox.lane_of`: the job's owner and a number derived from the host
    Column("lane", String, nullable=False),
    Column("host", String, nullable=False),
    Index("webhooks_by_job", "job_id", "id"),
    Index("webhooks_in_turn", "lane", "due_at", "id"),
)


def to_row(job: Job) -> dict[str, Any]:
    row = asdict(job)
    row["status"] = job.status.value
    row["deaths"] = list(job.deaths)
    del row["number"]  # assigned by the database
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
