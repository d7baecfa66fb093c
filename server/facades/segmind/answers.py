"""Converts a job to Segmind's headers, JSON result and queue states."""

from __future__ import annotations

import base64
from typing import Any

from server.context import Context
from server.facades.segmind import errors
from server.jobs.job import Job, Status
from server.media.artifact import Artifact

CREDITS = 1_000_000  # nothing is billed here, but some programs stop when no credits are left


def headers(job: Job) -> dict[str, str]:
    return {
        "x-request-id": job.id,
        "x-generation-time": f"{job.inference_seconds or 0.0:.3f}",
        "x-cost": "0",
        "x-remaining-credits": str(CREDITS),
        "x-seed-value": str(job.seed),
    }


def metrics(job: Job) -> dict[str, Any]:
    began = job.started_at if job.started_at is not None else job.finished_at
    total = None if job.finished_at is None else job.finished_at - job.created_at
    return {
        "inference_time": job.inference_seconds,
        "queue_time": None if began is None else began - job.created_at,
        "total_time": total,
        "cost": 0,
        "remaining_credits": CREDITS,
        "retry_count": max(0, job.attempt - 1),
    }


def result(context: Context, job: Job, video: Artifact, base: str) -> dict[str, Any]:
    url = context.artifacts.url(video, base)
    file: dict[str, Any] = {
        "url": url,
        "content_type": video.media_type,
        "file_name": video.file_name,
        "file_size": video.size,
    }
    if job.memo.get("base64"):
        file["base64"] = base64.b64encode(context.artifacts.read(video)).decode("ascii")
    return {
        "status": "COMPLETED",
        "request_id": job.id,
        "error": None,
        "metrics": metrics(job),
        "video": file,
        "output": url,
        "seed": job.seed,
    }


def links(job: Job, root: str) -> dict[str, str]:
    """Absolute URLs, because the SDK joins relative URLs wrongly. `root`: our URL up to Segmind's `/v1` and `/v2`."""
    return {
        "poll_url": f"{root}/v1/requests/{job.id}",
        "status_url": f"{root}/v2/requests/{job.id}/status",
        "response_url": f"{root}/v2/requests/{job.id}",
    }


def state(job: Job, root: str, queued: str = "QUEUED") -> tuple[int, dict[str, Any]]:
    """Returns the status code and the body for a job's state. The body does not include the result of a finished job.

    `queued`: the word for a queued job.
    """
    if not job.status.is_terminal:
        word = queued if job.status is Status.QUEUED else "PROCESSING"
        return 200, {"status": word, "request_id": job.id, "metrics": {}, **links(job, root)}
    if job.status is Status.SUCCEEDED:
        return 200, {"status": "COMPLETED", "request_id": job.id, "metrics": metrics(job), **links(job, root)}
    text = errors.of_job(job).text
    return 422, {"status": "FAILED", "request_id": job.id, "error": text, "metrics": metrics(job)}
