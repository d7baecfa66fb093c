"""Predictions: create, get, list, cancel."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.request import RequestError
from server.context import Context
from server.facades.ai_sdk import agent_of
from server.facades.kit.app import idempotency, root
from server.facades.kit.body import Json, read_json
from server.facades.kit.complaints import is_callable
from server.facades.kit.errors import Refused
from server.facades.kit.fields import kept, members, present
from server.facades.kit.waiting import ended_within, find_job, submit_job
from server.facades.replicate import agents, answers, errors
from server.facades.replicate.answers import NAME
from server.facades.replicate.models import (
    CogVideoXImageInput,
    DeploymentRequest,
    Model,
    ModelRequest,
    VersionRequest,
    Wanted,
    generation,
    guessed,
    model_of,
    of_version,
)
from server.jobs.job import EVENTS, Job, LogLine, Webhook
from server.jobs.order import Order

CANCEL_WITHIN = 10.0  # seconds that `cancel` waits for a running job to stop
LEAST_DEADLINE = 5.0  # seconds
PAGE = 100  # predictions
WAITED = "_waited_for"  # the key in a job's memo for the argument `waited_for` of `agents.is_data`
INPUTS = 100  # how many fields of an input to store at most
DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s?)?", re.ASCII)


@dataclass(frozen=True)
class Asked:
    """A requested prediction whose input is not yet validated."""

    model: Model
    version: str
    wanted: ModelRequest
    deployment: str | None = None


class Predictions:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    async def of_model(self, request: Request, owner: str, name: str) -> Response:
        model = model_of(owner, name)
        if model is None:
            raise errors.not_found(f"model {owner}/{name}")
        fields = await _fields(request)
        return await self._create(request, fields, Asked(model, model.version, model.request.model_validate(fields)))

    async def of_version(self, request: Request) -> Response:
        fields = await _fields(request)
        given = VersionRequest.model_validate(fields)
        found = of_version(given.version)
        if found is None:
            raise Refused(errors.Problem(422, errors.NO_VERSION, "Invalid version or not permitted"))
        return await self._create(request, fields, Asked(*found, found[0].request.model_validate(fields)))

    async def of_deployment(self, request: Request, owner: str, name: str) -> Response:
        fields = await _fields(request)
        DeploymentRequest.model_validate(fields)
        model = model_of(owner, name) or guessed(fields["input"])
        wanted = model.request.model_validate(fields)
        return await self._create(request, fields, Asked(model, model.version, wanted, f"{owner}/{name}"[:200]))

    async def _create(self, request: Request, fields: dict[str, Any], asked: Asked) -> Response:
        begun = monotonic()
        job = await self._submit(request, fields, asked)
        if seconds := wait_seconds(request):
            job = await ended_within(request, self.jobs, job, begun + seconds - monotonic())
            if not job.status.is_terminal:
                job = answers.waiting(job)
        return await run_in_threadpool(self._answer, request, job, 201)

    async def _submit(self, request: Request, fields: dict[str, Any], asked: Asked) -> Job:
        webhook = self._webhook(request, asked.wanted)
        cancel_after = _duration(request.headers.get("cancel-after", ""))
        given = asked.wanted.input
        image = None
        if isinstance(given, CogVideoXImageInput):
            image = await self.context.intake.picture(given.image, "image", owner=request.state.owner)
        named = {"deployment": asked.deployment, "webhook": webhook and webhook.url}
        memo: dict[str, Any] = {
            "version": asked.version,
            "input": kept(fields["input"], list(fields["input"])[:INPUTS]),
            **{name: value for name, value in named.items() if value is not None},
        }
        if webhook is not None:
            memo["webhook_events_filter"] = list(webhook.events)
        if wait_seconds(request) and agents.reads_files(agent_of(request)):
            memo[WAITED] = True
        order = Order(
            NAME,
            asked.model.slug,
            request.state.owner,
            memo,
            webhook=webhook,
            idempotency=idempotency(request),
            end_by=None if cancel_after is None else time.time() + cancel_after,
        )
        try:
            return await submit_job(request, self.jobs, generation(given, image), order)
        except RequestError as error:
            raise errors.renamed(error, asked.model.fields) from None

    def _webhook(self, request: Request, wanted: Wanted) -> Webhook | None:
        name = "webhook" if wanted.webhook is not None else "webhook_completed"
        url = wanted.webhook if wanted.webhook is not None else wanted.webhook_completed
        if url is None:
            return None
        if not is_callable(url):
            raise errors.refused("format", name, "Does not match format 'uri': an http(s) URL is needed")
        events = tuple(event for event in EVENTS if event in (wanted.webhook_events_filter or EVENTS))
        return Webhook(url, self.context.artifacts.base_url(request), events if name == "webhook" else ("completed",))

    def get(self, request: Request, prediction_id: str) -> Response:
        return self._answer(request, self._find(request, prediction_id))

    async def cancel(self, request: Request, prediction_id: str) -> Response:
        job = await run_in_threadpool(self._find, request, prediction_id)
        if not job.status.is_terminal:
            await run_in_threadpool(self.jobs.cancel, job.id)
            job = await ended_within(request, self.jobs, job, CANCEL_WITHIN)
        return await run_in_threadpool(self._answer, request, job)

    async def list(self, request: Request) -> Response:
        async with self.jobs.pages.turn(request.state.owner, agents.LONGEST_WAIT):
            return await run_in_threadpool(self._list, request)

    def _list(self, request: Request) -> Response:
        """The newest predictions come first. A cursor names the direction, and the prediction after which a page
        begins."""
        direction, _, behind = request.query_params.get("cursor", "").partition(".")
        owner, limit = request.state.owner, PAGE + 1
        if not direction:
            found, newer = self.jobs.page(NAME, owner, limit), False
            older = len(found) > PAGE
            found = found[:PAGE]
        elif direction in ("older", "newer"):
            start = self._find(request, behind)
            found = self.jobs.page(NAME, owner, limit, after=start, newest_first=direction == "older")
            more, found = len(found) > PAGE, found[:PAGE]
            older, newer = (more, True) if direction == "older" else (True, more)
            found = found if direction == "older" else found[::-1]
        else:
            raise Refused(errors.Problem(400, "Invalid cursor"))
        here = f"{self.root(request)}/v1/predictions?cursor="
        lines = self.jobs.logs_of(found)
        results = [self._body(request, job, lines.get(job.id, []), as_data=False) for job in found]
        return Json(
            {
                "previous": f"{here}newer.{results[0]['id']}" if newer and results else None,
                "next": f"{here}older.{results[-1]['id']}" if older and results else None,
                "results": results,
            }
        )

    def root(self, request: Request) -> str:
        return root(self.context, request, "/replicate")

    def _find(self, request: Request, prediction_id: str) -> Job:
        known = answers.job_id(prediction_id)
        job = find_job(request, self.jobs, known, NAME) if known is not None else None
        if job is None:
            raise errors.not_found(f"prediction {prediction_id}")
        return job

    def _answer(self, request: Request, job: Job, status: int = 200) -> Response:
        base = self.context.artifacts.base_url(request)
        setting, waited_for = self.context.settings.replicate_output, WAITED in job.memo
        as_data = agents.is_data(setting, agent_of(request), base, waited_for)
        return Json(self._body(request, job, self.jobs.logs(job.id), as_data=as_data), status_code=status)

    def _body(self, request: Request, job: Job, lines: Sequence[LogLine], *, as_data: bool) -> dict[str, Any]:
        base = self.context.artifacts.base_url(request)
        return answers.prediction(self.context, job, base, self.root(request), lines, as_data=as_data)


def wait_seconds(request: Request) -> float:
    """For how many seconds a call should block, according to its Prefer header; 0 means that the call should not
    block."""
    for part in re.split("[,;]", request.headers.get("prefer", "").lower()):
        name, equals, value = (piece.strip(' "') for piece in part.partition("="))
        if name == "wait" and not equals:
            return agents.longest_wait(request.headers)
        if name == "wait" and value.isascii() and value.isdecimal():
            return min(float(value[:400]), agents.longest_wait(request.headers))
    return 0.0


def _duration(after: str) -> float | None:
    """The seconds in a Cancel-After header: `30`, `30s`, `5m`, `1h30m45s`. None if the header is empty."""
    if not (text := after.strip().lower()):
        return None
    parts = DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    duration = 3600.0 * hours + 60 * minutes + seconds
    if duration < LEAST_DEADLINE:
        what = f"Must be a duration of {LEAST_DEADLINE:g} seconds or more, like 30s, 5m or 1h30m45s"
        raise errors.refused("format", "Cancel-After", what)
    return duration


async def _fields(request: Request) -> dict[str, Any]:
    """The fields of the body, without null values. Null values in `input` are removed too."""
    fields = present(members(await read_json(request)))
    if isinstance(fields.get("input"), dict):
        fields["input"] = present(fields["input"])
    return fields
