"""The body of Replicate's webhooks, and their Standard Webhooks signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace

from server.context import Context
from server.facades.replicate import answers
from server.jobs.job import Job, Status
from server.webhooks import Letter


def secret(context: Context, owner: str) -> bytes:
    """32 bytes for signing this owner's webhooks; these bytes reveal nothing about the server's own secret."""
    return context.signing.hmac_sha256(f"replicate webhooks\0{owner}".encode())


def secret_text(context: Context, owner: str) -> str:
    return "whsec_" + base64.b64encode(secret(context, owner)).decode("ascii")


def letter(context: Context, job: Job, event: str) -> Letter | None:
    if job.webhook is None:
        return None
    then = _at(job, event)
    lines = [] if event == "start" else context.jobs.logs(job.id)
    base = job.webhook.base
    body = json.dumps(answers.prediction(context, then, base, base, lines)).encode()
    key = secret(context, job.owner)

    def sign(body: bytes, now: float, number: int) -> Mapping[str, str]:
        message = f"msg_{hashlib.sha256(f'{job.id} {number}'.encode()).hexdigest()[:32]}"
        stamp = str(int(now))
        signed = hmac.new(key, f"{message}.{stamp}.".encode() + body, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode('ascii')}",
        }

    return Letter(body, sign)


def _at(job: Job, event: str) -> Job:
    """Returns `job` as it was at `event`; the job may have advanced since. Only `completed` reports an end."""
    if event == "completed":
        return job
    then = replace(job, status=Status.RUNNING, finished_at=None, error=None)
    if event == "start":
        return replace(then, video=None, step=0, steps=0, share=0.0)
    return then if event == "output" else replace(then, video=None)
