"""Converts a job to OpenAI's video object, and a model to OpenAI's model object."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

from pipelines.models import ModelInfo
from server.context import Context
from server.facades.kit.fields import planned
from server.facades.openai import errors
from server.jobs.job import Job, Status
from weights.catalog import plain_name

PREFIX = "video_"
SORA = re.compile(r"sora-2(-pro)?(-\d{4}-\d\d-\d\d)?")  # programs use these names; here they mean the served model
LISTED_SORA = ("sora-2", "sora-2-pro", "sora-2-2025-10-06", "sora-2-2025-12-08", "sora-2-pro-2025-10-06")
WORDS = {
    Status.QUEUED: "queued",
    Status.RUNNING: "in_progress",
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
}


def id_of(job: Job) -> str:
    return f"{PREFIX}{uuid.UUID(job.id).hex}"


def job_id_of(video_id: str) -> str | None:
    if not re.fullmatch(PREFIX + "[0-9a-f]{32}", video_id):
        return None
    return str(uuid.UUID(video_id.removeprefix(PREFIX)))


def video(context: Context, job: Job, base: str) -> dict[str, Any]:
    """Returns OpenAI's video object with two more members: `url` is the URL of the video, and `notes` say how the video
    differs from the request."""
    plan, request, asked = job.plan or {}, job.request, job.memo.get("model", "")
    seconds = request.duration or (request.num_frames or 0) / (request.fps or 1)
    failed = WORDS[job.status] == "failed"
    return {
        "id": id_of(job),
        "object": "video",
        "model": asked if SORA.fullmatch(asked) else job.model,
        "status": WORDS[job.status],
        "progress": int(100 * job.progress + 1e-9),
        "created_at": int(job.created_at),
        "completed_at": None if job.finished_at is None else int(job.finished_at),
        "expires_at": None,
        "seconds": f"{seconds:g}",
        "size": f"{plan.get('width', request.width)}x{plan.get('height', request.height)}",
        "prompt": request.prompt,
        "error": _error(job) if failed else None,
        "remixed_from_video_id": job.memo.get("remixed_from_video_id"),
        "url": None if job.video is None else context.artifacts.url(job.video, base),
        "notes": notes(job),
    }


def notes(job: Job) -> list[str]:
    """The differences from the request: another model, fields without effect, changes by the plan."""
    asked, said = job.memo.get("model", ""), []
    if asked and not SORA.fullmatch(asked) and plain_name(asked) != plain_name(job.model):
        said.append(f"model: {asked} -> {job.model} (what is served here for {job.request.task})")
    return [*said, *job.memo.get("notes", ()), *planned(job)]


def _error(job: Job) -> dict[str, str]:
    failure = errors.of_job(job)
    return {"code": failure.code or "server_error", "message": failure.message}


def page(videos: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": videos,
        "first_id": videos[0]["id"] if videos else None,
        "last_id": videos[-1]["id"] if videos else None,
        "has_more": has_more,
    }


def named(models: Iterable[ModelInfo], name: str) -> ModelInfo | None:
    return next((info for info in models if plain_name(info.name) == plain_name(name)), None)


def model(name: str, info: ModelInfo) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(info.folder.stat().st_mtime),
        "owned_by": "cogvideox-server",
    }
