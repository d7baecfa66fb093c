"""fal's calls about jobs: run, submit, status, status stream, result, cancel."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.errors import QueueFull
from server.facades.ai_sdk import agent_of, is_ai_sdk, refuses
from server.facades.fal import answers, errors, intake, options
from server.facades.fal.hosts import QUEUE
from server.facades.fal.models import Endpoint
from server.facades.fal.options import Terms
from server.facades.kit.app import idempotency
from server.facades.kit.body import Json, read_body, read_json
from server.facades.kit.fields import kept, unknown
from server.facades.kit.follow import EventStream, followed
from server.facades.kit.json_bodies import parsed
from server.facades.kit.waiting import ended, find_job, submit_job
from server.jobs.follow import Seen
from server.jobs.job import Job, JobError, Status
from server.jobs.order import Order
from server.limits.shares import holder
from server.request_state import note_refusal

FACADE = "fal"


class Fal:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    async def run(self, request: Request, endpoint: Endpoint) -> Response:
        agreed = options.of_run(request)

        async def submit() -> Job:
            return await self._submit(request, endpoint, await _input(request), agreed)

        done = await ended(request, self.jobs, submit, one_shot=True)
        return await run_in_threadpool(self._outcome, request, done)

    async def submit(self, request: Request, endpoint: Endpoint) -> Response:
        """Accepts any input, as fal does. Errors in the input appear at the result's URL."""
        agreed = options.of_submit(request, self.context.artifacts.base_url(request))
        await self._check_length(request)
        body = await read_body(request)
        try:
            job = await self._submit(request, endpoint, await parsed(body, request.state.owner), agreed)
        except errors.RUNNERS as error:
            if errors.is_about_a_header(error):
                raise
            # note the error for the log, because the response is a success; a traceback would keep the body in memory
            note_refusal(request, error.with_traceback(None))
            failure = errors.ANSWERS.to(error)
            reason = JobError("invalid_request", failure.sentence, detail=errors.small(failure))
            order = Order(FACADE, endpoint.id, request.state.owner, webhook=agreed.webhook)
            job = await run_in_threadpool(self.jobs.refuse, order, reason)
        position = await run_in_threadpool(self.jobs.position, job)
        return Json(self._receipt(request, job, position), headers={"x-fal-request-id": job.id})

    async def _check_length(self, request: Request) -> None:
        longest = request.query_params.get("fal_max_queue_length", "")
        if not (longest.isascii() and longest.isdecimal()):
            return
        waiting = (await run_in_threadpool(self.jobs.counts)).get(Status.QUEUED, 0)
        if waiting > int(longest[:9]):
            raise QueueFull(int(longest[:9]))

    async def _submit(self, request: Request, endpoint: Endpoint, given: Any, agreed: Terms) -> Job:
        generation = await intake.generation(
            self.context, endpoint, intake.validated(endpoint, given), request.state.owner
        )
        order = Order(
            FACADE,
            endpoint.id,
            request.state.owner,
            _memo(endpoint, given),
            priority=agreed.priority,
            keep_seconds=agreed.keep_seconds,
            webhook=agreed.webhook,
            idempotency=idempotency(request),
            start_by=None if agreed.start_within is None else time.time() + agreed.start_within,
        )
        return await submit_job(request, self.jobs, generation, order)

    def _find(self, request: Request, request_id: str) -> Job:
        job = find_job(request, self.jobs, request_id, FACADE)
        if job is None:
            raise errors.not_found(request_id)
        return job

    def status(self, request: Request, request_id: str) -> Response:
        job = self._find(request, request_id)
        wanted = request.query_params.get("logs", "").lower() in ("1", "true", "yes")
        lines = answers.log_lines([*answers.notes(job), *self.jobs.logs(job.id)]) if wanted else None
        code, body = answers.status(job, self._base(request), self._position(job), lines)
        return Json(body, status_code=code, headers={"x-fal-request-id": job.id})

    def stream(self, request: Request, request_id: str) -> Response:
        job = self._find(request, request_id)
        headers = {"x-fal-request-id": job.id}
        place = self.jobs.streams.held(holder(request.state.owner, request))
        return EventStream(self._events(request, job), headers, place)

    def _events(self, request: Request, job: Job) -> AsyncIterator[str]:
        """Each event contains only the log lines since the previous event, because the JS client accumulates the lines.

        NOTE: the events have no `id:` lines. After an event with an id, clients would treat each keep-alive comment as
        an empty event.
        """
        wanted = request.query_params.get("logs", "").lower() in ("1", "true", "yes")
        fresh = answers.notes(job)
        before: tuple[str, int] | None = None

        def event(seen: Seen) -> str:
            nonlocal fresh, before
            fresh += seen.lines if wanted else []
            lines = answers.log_lines(fresh) if wanted else None
            body = answers.status(seen.job, self._base(request), seen.position, lines)[1]
            now = (body["status"], seen.position)
            if now == before and not (fresh and "logs" in body and wanted):
                return ""
            before, fresh = now, fresh if "logs" not in body else []
            return f"data: {json.dumps(body)}\n\n"

        return followed(self.jobs, job.id, event)

    def result(self, request: Request, request_id: str) -> Response:
        job = self._find(request, request_id)
        if not job.status.is_terminal:
            failure = errors.infrastructure(400, "Request is still in progress", "bad_request")
            return errors.respond(failure, job.id)
        return self._outcome(request, job)

    def cancel(self, request: Request, request_id: str) -> Response:
        job = self._find(request, request_id)
        headers = {"x-fal-request-id": job.id}
        if job.status.is_terminal:
            return Json({"status": "ALREADY_COMPLETED"}, status_code=400, headers=headers)
        self.jobs.cancel(job.id)
        return Json({"status": "CANCELLATION_REQUESTED"}, status_code=202, headers=headers)

    def _outcome(self, request: Request, job: Job) -> Response:
        base = self.context.artifacts.base_url(request)
        outcome = answers.outcome(self.context, job, base, as_data=refuses(agent_of(request), base))
        if isinstance(outcome, errors.Failure):
            return errors.respond(outcome, job.id)
        return Json(outcome, headers={"x-fal-request-id": job.id})

    def _receipt(self, request: Request, job: Job, position: int) -> dict[str, Any]:
        return {"status": "IN_QUEUE", "queue_position": position, **answers.links(job.id, self._base(request))}

    def _position(self, job: Job) -> int:
        return self.jobs.position(job) if job.status is Status.QUEUED else 0

    def _base(self, request: Request) -> str:
        prefix: str = request.state.fal_prefix
        if prefix == QUEUE or is_ai_sdk(agent_of(request)):
            return QUEUE
        if self.context.settings.public_url:
            prefix = "/queue"
        return f"{self.context.artifacts.base_url(request)}{prefix}"


async def _input(request: Request) -> Any:
    if request.method == "GET":  # the JS client sends the input of a GET in the query
        return dict(request.query_params)
    return await read_json(request)


def _memo(endpoint: Endpoint, given: Any) -> dict[str, Any]:
    fields = given if isinstance(given, dict) else {}
    ignored = kept({"ignored": unknown(fields, endpoint.input.model_fields)}, ["ignored"])
    return {**kept(fields, endpoint.input.model_fields), **ignored}
