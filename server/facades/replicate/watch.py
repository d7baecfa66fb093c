"""A prediction's event stream and page, which a browser opens without a key: the URL is the permission."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from server.context import Context
from server.facades.kit.follow import EventStream, followed
from server.facades.replicate import answers, errors, logs
from server.facades.replicate.answers import NAME
from server.facades.replicate.models import MODELS
from server.jobs.follow import Seen
from server.jobs.job import Job, Status
from server.limits.shares import holder

LINE_END = re.compile(r"\r\n|\r|\n")  # the line ends of the event stream format


class Watch:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    def stream(self, request: Request, prediction_id: str, token: str) -> Response:
        job = self._find(prediction_id, token)
        base = self.context.artifacts.base_url(request)
        place = self.jobs.streams.held(holder(job.owner, request))
        return EventStream(self._events(job, base), {}, place)

    async def _events(self, job: Job, base: str) -> AsyncIterator[str]:
        number, shown = 0, (0, 0)

        def event(seen: Seen) -> str:
            nonlocal job, number, shown
            job = seen.job
            before, shown = shown, (job.step, int(100 * job.progress) if job.step else 0)
            lines = [line.message for line in seen.lines]
            text = "\n".join([*lines, *([logs.progress(job, time.time())] if shown != before else [])])
            if not text:
                return ""
            number += 1
            return _event("logs", text, number)

        async for one in followed(self.jobs, job.id, event):
            yield one
        if not job.status.is_terminal:
            return
        if job.video is not None:
            yield _event("output", self.context.artifacts.url(job.video, base), number + 1)
        if job.status is Status.FAILED:
            yield _event("error", errors.of_job(job, MODELS[job.endpoint].fields) or "", number + 1)
        reason = {Status.FAILED: '{"reason": "error"}', Status.CANCELLED: '{"reason": "canceled"}'}
        yield _event("done", reason.get(job.status, "{}"), number + 2)

    def page(self, request: Request, prediction_id: str, token: str) -> Response:
        """Redirects to the video. Until the video is complete, shows the progress of the prediction; browsers reload
        this page every two seconds."""
        job = self._find(prediction_id, token)
        if job.video is not None:
            return RedirectResponse(
                self.context.artifacts.url(job.video, self.context.artifacts.base_url(request)), 303
            )
        error = errors.of_job(job, MODELS[job.endpoint].fields)
        log = logs.text(job, self.jobs.logs(job.id), time.time())
        text = "\n".join(filter(None, (answers.WORDS[job.status], error, log)))
        return PlainTextResponse(text, headers={} if job.status.is_terminal else {"refresh": "2"})

    def _find(self, prediction_id: str, token: str) -> Job:
        known = answers.job_id(prediction_id)
        # use `get`, which finds the jobs of all owners: the owner may have passed the token on to others
        allowed = known is not None and self.context.signing.allows(token, NAME, known)
        job = self.jobs.get(known) if known is not None and allowed else None
        if job is None or job.facade != NAME:
            raise errors.not_found(f"prediction {prediction_id}")
        return job


def _event(name: str, data: str, number: int) -> str:
    pieces = LINE_END.split(data)  # only at LINE_END, because a client joins the pieces with line feeds
    lines = "".join(f"data: {line}\n" for line in pieces[: -1 if len(pieces) > 1 and not pieces[-1] else None])
    return f"event: {name}\nid: {number}\n{lines}\n"
