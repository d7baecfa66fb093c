"""Converts a job to ModelsLab's responses (processing, success, error) and webhooks. A response contains the URL of the
video before the video exists.
"""

from __future__ import annotations

import json
import math
from typing import Any

from server.context import Context
from server.facades.kit.fields import planned
from server.facades.modelslab import errors
from server.facades.modelslab.models import TEXT_MODELS
from server.jobs.job import Job, Status
from server.webhooks import Letter
from weights.catalog import plain_name, published

USUAL_SECONDS = 30  # the estimate for each job if no duration is known
LATER = "Try to fetch request after seconds estimated"
TIP_LATER = "Send your key to fetch_result, or look at future_links, when eta seconds have passed"
TIP_DONE = "The video is at the address in output; no key is needed to get it"
TIP_FAILED = "Change the request and send it again"


def video_url(job: Job, base: str) -> str:
    return f"{base.rstrip('/')}/generations/{job.id}.{job.request.output_format}"


def meta(job: Job) -> dict[str, Any]:
    """Returns the request's parameters. Values above a maximum are reduced to the maximum. Parameters without effect
    are included, and `notes` names these parameters."""
    sent = {name: value for name, value in job.memo.items() if name not in ("notes", "track_id")}
    told = {name: ("no", "yes")[value] if isinstance(value, bool) else value for name, value in sent.items()}
    return {"model_id": told.pop("model_id", ""), **told, "seed": job.seed, "file_prefix": job.id}


def notes(job: Job) -> list[str]:
    """The differences between the request and the video, caused by this façade or by the plan."""
    asked, said = str(job.memo.get("model_id", "")), []
    if published(asked) and asked not in TEXT_MODELS and plain_name(asked) != plain_name(job.model):
        said.append(f"model_id: {asked} -> {job.model} (what this server has)")
    return [*said, *job.memo.get("notes", ()), *planned(job)]


def eta(expected: float | None, position: int) -> int:
    """The estimate in whole seconds, at least 1."""
    return USUAL_SECONDS * (position + 1) if expected is None else max(1, math.ceil(expected))


def of_job(
    job: Job, base: str, position: int, expected: float | None = None, fetch_url: str | None = None
) -> dict[str, Any]:
    """The response about a job. `fetch_url`: set only for the call that creates the job. Until the job has ended, the
    response to this call has more fields than later responses.

    `position`: the number of jobs before this job. `expected`: seconds until the video is complete, if an estimate
    exists.
    """
    if job.status is Status.SUCCEEDED:
        return _success(job, base)
    if job.status.is_terminal:
        failed = {"status": "error", "id": job.number, "message": errors.of_job(job)}
        return {**failed, "output": [], "tip": TIP_FAILED}
    seconds = eta(expected, position)
    if fetch_url is None:
        later = {"status": "processing", "id": job.number, "eta": seconds, "message": LATER}
        return {**later, "output": [], "tip": TIP_LATER}
    return {
        "status": "processing",
        "tip": TIP_LATER,
        "eta": seconds,
        "message": LATER,
        "messege": LATER,  # the vendor's spelling, which clients read
        "fetch_result": fetch_url,
        "id": job.number,
        "output": [],
        "proxy_links": [],
        "future_links": [video_url(job, base)],
        "meta": meta(job),
        "notes": notes(job),
    }


def _success(job: Job, base: str) -> dict[str, Any]:
    url = video_url(job, base)
    return {
        "status": "success",
        "generationTime": _seconds(job),
        "id": job.number,
        "output": [url],
        "proxy_links": [url],
        "nsfw_content_detected": False,
        "webhook_status": "",
        "meta": meta(job),
        "tip": TIP_DONE,
        "notes": notes(job),
    }


def _seconds(job: Job) -> float:
    return round(job.inference_seconds or 0.0, 2)


def letter(context: Context, job: Job, event: str) -> Letter | None:
    """The webhook for a job that has ended; None for other events."""
    if event != "completed" or job.webhook is None:
        return None
    track_id = job.memo.get("track_id")
    if job.status is Status.SUCCEEDED:
        body = {
            "status": "success",
            "id": job.number,
            "output": [video_url(job, job.webhook.base)],
            "generationTime": _seconds(job),
            "track_id": track_id,
            "meta": meta(job),
        }
    else:
        body = {"status": "failed", "id": job.number, "message": errors.of_job(job), "track_id": track_id}
    return Letter(json.dumps(body).encode("ascii"), lambda body, now, number: {"content-type": "application/json"})
