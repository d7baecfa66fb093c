"""A prediction watched without a key: its event stream and its page, for whoever was given their addresses.

Knows: the events Replicate's clients read. Does not know: who may ask (the address says that he may).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse

from server.context import Context
from server.facades.replicate import answers, errors, logs
from server.facades.replicate.answers import NAME
from server.facades.replicate.models import MODELS
from server.jobs.job import Job, Status

PERIOD = 0.5  # seconds between two looks at a job that is watched
KEEP_ALIVE = 15.0  # seconds of silence after which a stream says a comment


class Watch:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    def stream(self, request: Request, prediction_id: str, token: str) -> Response:
        job = self._find(prediction_id, token)
        base = self.context.artifacts.base_url(request)
        headers = {"cache-control": "no-store"}
        return StreamingResponse(self._events(job, base), media_type="text/event-stream", headers=headers)

    async def _events(self, job: Job, base: str) -> AsyncIterator[str]:
        number, seen, shown, said = 0, 0, (0, 0), time.monotonic()
        while True:
            fresh = await run_in_threadpool(self.jobs.logs, job.id, seen)
            seen = max([seen, *(line.seq for line in fresh)])
            before, shown = shown, (job.step, int(100 * job.progress) if job.step else 0)
            text = "\n".join(
                [*(line.message for line in fresh), *([logs.progress(job, time.time())] if shown != before else [])]
            )
            if text:
                number, said = number + 1, time.monotonic()
                yield _event("logs", text, number)
            elif time.monotonic() - said > KEEP_ALIVE:
                said = time.monotonic()
                yield ": still here\n\n"
            if job.status.is_terminal:
                break
            try:
                job = await self.jobs.wait(job.id, timeout=PERIOD)
            except KeyError:  # removed meanwhile, or the server stops
                return
        if job.video is not None:
            yield _event("output", self.context.artifacts.url(job.video, base), number + 1)
        if job.status is Status.FAILED:
            yield _event("error", errors.of_job(job, MODELS[job.endpoint].fields) or "", number + 1)
        reason = {Status.FAILED: '{"reason": "error"}', Status.CANCELLED: '{"reason": "canceled"}'}
        yield _event("done", reason.get(job.status, "{}"), number + 2)

    def page(self, request: Request, prediction_id: str, token: str) -> Response:
        """The film; before there is one, how far it is, which a browser asks for again."""
        job = self._find(prediction_id, token)
        if job.video is not None:
            return RedirectResponse(
                self.context.artifacts.url(job.video, self.context.artifacts.base_url(request)), 303
            )
        error = errors.of_job(job, MODELS[job.endpoint].fields)
        told = logs.text(job, self.jobs.logs(job.id), time.time())
        text = "\n".join(filter(None, (answers.WORDS[job.status], error, told)))
        return PlainTextResponse(text, headers={} if job.status.is_terminal else {"refresh": "2"})

    def _find(self, prediction_id: str, token: str) -> Job:
        known = answers.job_id(prediction_id)
        # `get`, not `find`: the token was given to the owner, who has passed it on
        allowed = known is not None and self.context.signing.allows(token, NAME, known)
        job = self.jobs.get(known) if known is not None and allowed else None
        if job is None or job.facade != NAME:
            raise errors.not_found(f"prediction {prediction_id}")
        return job


def _event(name: str, data: str, number: int) -> str:
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\nid: {number}\n{lines}\n"
