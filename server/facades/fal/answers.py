"""Converts a job to fal's queue status, log lines and output."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from server.context import Context
from server.facades.ai_sdk import video_or_url
from server.facades.fal import errors
from server.facades.fal.models import APP
from server.jobs.job import Job, LogLine, Status
from server.media.artifact import Artifact

LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}


def links(job_id: str, base: str) -> dict[str, str]:
    """The job's URLs. `base`: our URL up to fal's own path."""
    here = f"{base}/{APP}/requests/{job_id}"
    return {
        "request_id": job_id,
        "gateway_request_id": job_id,
        "response_url": here,
        "status_url": f"{here}/status",
        "cancel_url": f"{here}/cancel",
    }


def status(job: Job, base: str, position: int, logs: list[dict[str, str]] | None) -> tuple[int, dict[str, Any]]:
    """Returns the status code and the body. The body always has the field `logs` once the job has begun, because the
    Python client requires this field."""
    if job.status is Status.QUEUED:
        return 202, {"status": "IN_QUEUE", "queue_position": position, **links(job.id, base)}
    body: dict[str, Any] = {"status": "IN_PROGRESS", "logs": logs, **links(job.id, base)}
    if not job.status.is_terminal:
        return 202, body
    body["status"] = "COMPLETED"
    body["metrics"] = {"inference_time": job.inference_seconds}
    if job.status is not Status.SUCCEEDED:
        failure = errors.of_job(job)
        body |= {"error": failure.sentence, "error_type": failure.error_type}
    return 200, body


def log_lines(lines: Iterable[LogLine]) -> list[dict[str, str]]:
    return [
        {
            "message": line.message,
            "level": LEVELS.get(line.level.upper(), line.level.upper()),
            "source": "USER",
            "timestamp": datetime.fromtimestamp(line.at, UTC).isoformat(),
        }
        for line in lines
    ]


def notes(job: Job) -> list[LogLine]:
    """Returns the first log lines of a job. These lines say how the job differs from the same job at fal."""
    said = list(job.memo.get("ignored", ()))
    if job.request.interpolate_fps is None and job.memo.get("use_rife") is None and job.status is not Status.FAILED:
        said.append(
            f"Frame interpolation is not installed: the frames are stamped at {job.request.fps} fps, not interpolated"
        )
    return [LogLine(0, job.created_at, "WARN", text) for text in said]


def outcome(context: Context, job: Job, base: str, *, as_data: bool = False) -> dict[str, Any] | errors.Failure:
    """The result of a job that has ended. `base`: our URL, for links to files. `as_data`: whether the video is sent as
    a data: URI."""
    if job.status is not Status.SUCCEEDED or job.video is None:
        return errors.of_job(job)
    return output(context, job, job.video, base, as_data)


def output(context: Context, job: Job, video: Artifact, base: str, as_data: bool) -> dict[str, Any]:
    return {
        "video": {
            "url": video_or_url(context, video, base, as_data),
            "content_type": video.media_type,
            "file_name": video.file_name,
            "file_size": video.size,
        },
        "timings": {"inference": job.inference_seconds or 0.0},
        "seed": job.seed,
        "prompt": job.request.prompt,
    }
