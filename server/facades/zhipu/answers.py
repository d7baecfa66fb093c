"""Converts a job to Zhipu's task, and to 302.AI's unified form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipelines.request import Task
from server.context import Context
from server.facades.zhipu import errors
from server.jobs.job import Job, Status

STATES = {Status.QUEUED: "PROCESSING", Status.RUNNING: "PROCESSING", Status.SUCCEEDED: "SUCCESS"}
UNIFIED_STATES = {Status.QUEUED: "pending", Status.RUNNING: "processing", Status.SUCCEEDED: "completed"}
MODES = {Task.T2V: "t2v", Task.I2V: "i2v"}


def task(job: Job, status: str = "PROCESSING") -> dict[str, Any]:
    """The response to a create call, and the beginning of every result."""
    return {
        "id": job.id,
        "model": job.memo["model"],
        "request_id": job.memo["request_id"],
        "task_status": status,
    }


def created(job: Job) -> dict[str, Any]:
    return {**task(job), "notes": notes(job)}


def result(context: Context, job: Job, base: str) -> dict[str, Any]:
    answer = task(job, STATES.get(job.status, "FAIL"))
    if job.status.is_terminal and job.status is not Status.SUCCEEDED:
        answer["error"] = errors.of_job(job)
    elif job.video is not None and job.poster is not None:
        links = [context.artifacts.url(file, base) for file in (job.video, job.poster)]
        answer["video_result"] = [{"url": links[0], "cover_image_url": links[1]}]
    return {**answer, "notes": notes(job)}


def unified_created(job: Job) -> dict[str, Any]:
    return {
        "task_id": job.id,
        "status": "pending",
        "created_at": _date(job.created_at),
        "request_id": job.memo["request_id"],
        "notes": notes(job),
    }


def unified_result(context: Context, job: Job, base: str) -> dict[str, Any]:
    """`raw_response` contains Zhipu's form of the result. At 302.AI, this field contains the response of the cloud that
    302.AI calls."""
    raw = result(context, job, base)
    videos = raw.get("video_result", [{}])
    answer = {
        "task_id": job.id,
        "upstream_task_id": job.id,
        "model": job.memo["model"],
        "mode": MODES.get(job.request.task, "v2v"),
        "status": UNIFIED_STATES.get(job.status, "failed"),
        "video_url": videos[0].get("url"),
        "created_at": _date(job.created_at),
        "completed_at": None if job.finished_at is None else _date(job.finished_at),
        "execution_time": round(job.inference_seconds or 0),  # a client in Go expects an integer
        "raw_response": raw,
        "notes": raw["notes"],
    }
    if "error" in raw:
        answer["error"] = errors.unified(raw["error"], 500 if raw["error"]["code"] == errors.INTERNAL else 400)
    return answer


def notes(job: Job) -> list[str]:
    """The differences from the request and from Zhipu's service."""
    plan = job.plan or {}
    said = [f"model: {job.memo['model']} -> {job.model} (what this server has)"]
    if job.request.width is None and "width" in plan:
        said.append(f"size: none -> {plan['width']}x{plan['height']} (the model's own)")
    if "num_inference_steps" in plan:
        said.append(f"quality: {job.memo['quality']} -> {plan['num_inference_steps']} steps")
    return said + [_of_plan(note) for note in plan.get("notes", ())] + list(job.memo["notes"])


def _of_plan(note: dict[str, Any]) -> str:
    name = errors.FIELDS.get(note["field"], note["field"])
    arrow = "made at" if name == "size" else "->"
    return f"{name}: {note['asked']} {arrow} {note['used']} ({note['reason']})"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
