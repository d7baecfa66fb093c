"""The body of fal's webhooks, and their signature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from server.context import Context
from server.facades.fal import answers
from server.facades.fal.errors import Failure
from server.jobs.job import Job
from server.webhooks import Letter

NOBODY = "local"  # the user id if the server has no keys, because verifiers of webhooks require a user id


def letter(context: Context, job: Job, event: str) -> Letter | None:
    if event != "completed" or job.webhook is None:
        return None
    outcome = answers.outcome(context, job, job.webhook.base)
    failed = isinstance(outcome, Failure)
    body = {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "ERROR" if failed else "OK",
        "error": f"Invalid status code: {outcome.status}" if isinstance(outcome, Failure) else None,
        "payload": outcome.body if isinstance(outcome, Failure) else outcome,
    }

    def sign(body: bytes, now: float, _: int) -> Mapping[str, str]:
        named = (job.id, job.owner or NOBODY, str(int(now)))
        signature = context.signing.ed25519("\n".join((*named, hashlib.sha256(body).hexdigest())).encode())
        return {
            "content-type": "application/json",
            "x-fal-webhook-request-id": named[0],
            "x-fal-webhook-user-id": named[1],
            "x-fal-webhook-timestamp": named[2],
            "x-fal-webhook-signature": signature.hex(),
        }

    return Letter(json.dumps(body).encode(), sign)
