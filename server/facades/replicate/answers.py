"""Converts a job to Replicate's prediction, and ids in both directions."""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from server.context import Context
from server.facades.ai_sdk import video_or_url
from server.facades.replicate import errors, logs
from server.facades.replicate.models import MODELS
from server.jobs.job import Job, LogLine, Status

NAME = "replicate"
WORDS = {
    Status.QUEUED: "starting",
    Status.RUNNING: "processing",
    Status.SUCCEEDED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELLED: "canceled",
}


def public_id(job_id: str) -> str:
    """The id in Replicate's form: 26 characters of lower-case base32."""
    return base64.b32encode(uuid.UUID(job_id).bytes).decode().rstrip("=").lower()


def job_id(public: str) -> str | None:
    """The job's id for a public id; None if the public id is invalid."""
    try:
        raw = base64.b32decode(public.upper() + "======")
    except (binascii.Error, ValueError):
        return None
    found = str(uuid.UUID(bytes=raw)) if len(raw) == 16 else None
    return found if found is not None and public_id(found) == public else None


def timestamp(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def waiting(job: Job) -> Job:
    """Returns `job` as Replicate reports it when a blocking call times out. Replicate's clients treat any status except
    `starting` as the end of the prediction."""
    return replace(job, status=Status.QUEUED, started_at=None)


def prediction(
    context: Context, job: Job, base: str, root: str, lines: Iterable[LogLine], *, as_data: bool = False
) -> dict[str, Any]:
    """`base`: our URL. `root`: our URL up to Replicate's `/v1`. `as_data`: whether the output is a data: URI with the
    video instead of the URL of the video."""
    body: dict[str, Any] = {
        "id": public_id(job.id),
        "model": job.endpoint,
        "version": job.memo["version"],
        "input": job.memo["input"],
        "logs": logs.text(job, lines, time.time()),
        "output": None if job.video is None else video_or_url(context, job.video, base, as_data),
        "data_removed": False,
        "error": errors.of_job(job, MODELS[job.endpoint].fields),
        "source": "api",
        "status": WORDS[job.status],
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "completed_at": timestamp(job.finished_at),
        "urls": urls(context, job, root),
        "metrics": metrics(job),
    }
    optional = ("deployment", "webhook", "webhook_events_filter")
    body |= {name: job.memo[name] for name in optional if name in job.memo}
    if job.end_by is not None:
        body["deadline"] = timestamp(job.end_by)
    return body


def urls(context: Context, job: Job, root: str) -> dict[str, str]:
    """The URLs `stream` and `web` contain a token, because browsers open these two URLs without sending a key."""
    here = f"{root}/v1/predictions/{public_id(job.id)}"
    token = context.signing.token(NAME, job.id)
    return {
        "cancel": f"{here}/cancel",
        "get": here,
        "stream": f"{here}/stream/{token}",
        "web": f"{here}/web/{token}",
    }


def metrics(job: Job) -> dict[str, float] | None:
    """Times in seconds; None before the job has ended."""
    if job.finished_at is None:
        return None
    return {"predict_time": job.inference_seconds or 0.0, "total_time": job.finished_at - job.created_at}
