"""Fields for log lines about jobs, such as sizes, steps and the key's name; no prompts, API keys or URLs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.jobs.job import Job

UNLOGGED = ("prompt", "negative_prompt", "loras", "image", "video")  # fields of the request whose notes may quote it

KeyName = Callable[[str], str]  # a job's `owner` -> the name of its key for the log


def about(job: Job, key_name: KeyName) -> dict[str, Any]:
    """Cloud, endpoint, key, task, size, frames, steps and the like."""
    plan, request = job.plan or {}, job.request
    width, height = plan.get("width", request.width), plan.get("height", request.height)
    fields = {
        "job_id": job.id,
        "cloud": job.facade,
        "endpoint": job.endpoint,
        "key": key_name(job.owner),
        "model": job.model,
        "task": str(request.task),
        "size": f"{width}x{height}" if width and height else None,
        "frames": plan.get("num_frames", request.num_frames),
        "steps": plan.get("num_inference_steps", request.num_inference_steps),
        "attempt": job.attempt or None,
    }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def notes(job: Job) -> list[str]:
    """How the plan differs from the request."""
    found = (job.plan or {}).get("notes", ())
    return [f"{note['field']}: {note['asked']} -> {note['used']}" for note in found if note["field"] not in UNLOGGED]


def seconds(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round(max(0.0, end - begin), 2)
