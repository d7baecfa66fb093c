"""Hugging Face's errors: `{"error": text}` and a status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from server.context import Context
from server.facades.kit import complaints
from server.facades.kit.body import Json
from server.facades.kit.errors import HUNG_UP, Answers, Failure, http_text, named, not_json, reason, retry_after
from server.jobs.job import Job, Status

FIELDS = {  # GenerationRequest's names -> Hugging Face's
    "image": "inputs",
    "width": "parameters.target_size.width",
    "height": "parameters.target_size.height",
    **{
        name: f"parameters.{name}"
        for name in ("negative_prompt", "num_frames", "num_inference_steps", "guidance_scale", "seed")
    },
}
NO_KEY = "Invalid credentials in Authorization header: a key is needed, as in `Authorization: Bearer KEY`"
BAD_KEY = "Invalid credentials in Authorization header"


def respond(failure: Failure) -> Json:
    return Json({"error": failure.text}, status_code=failure.status, headers=failure.headers)


def refuse(context: Context, request: Request, error: Exception) -> Json:
    return respond(ANSWERS.to(error))


def of_job(job: Job) -> Failure:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return Failure(503, "The request was cancelled")
    error = reason(job)
    code = {"invalid_request": 422, "media_error": 422, "worker_lost": 503}.get(error.code, 500)
    return Failure(code, named(error, FIELDS))


WORDS = {
    **complaints.WORDS,
    "greater_than_equal": "{name} must be at least {ge}, got {given}",
    "less_than_equal": "{name} must be at most {le}, got {given}",
}


def _of_field(error: Mapping[str, Any]) -> str:
    return complaints.complaint(error, ".".join(str(part) for part in error["loc"]) or "body", WORDS)


ANSWERS = Answers(
    no_key=lambda e: Failure(401, NO_KEY if e.reason == "missing" else BAD_KEY),
    invalid=lambda e: Failure(422, complaints.complaints(e, _of_field)),
    bad_json=lambda e: Failure(422, not_json(e)),
    not_an_object=lambda e: Failure(422, "The body must be a JSON object with `inputs`"),
    too_large=lambda e: Failure(413, e.message),
    bad_media=lambda e: Failure(422, named(e)),
    bad_request=lambda e: Failure(422, named(e, FIELDS)),
    no_model=lambda e: Failure(404, e.message),
    bad_upload=lambda e: Failure(422, e.message),
    queue_full=lambda e: Failure(503, f"Service unavailable: {e.message}", headers=retry_after(e)),
    disk_full=lambda e: Failure(503, f"Service unavailable: {e.message}"),
    hung_up=lambda e: Failure(499, HUNG_UP),
    http=lambda e: Failure(e.status_code, http_text(e), headers=dict(e.headers or {})),
    crashed=lambda e: Failure(500, "Internal server error"),
)
