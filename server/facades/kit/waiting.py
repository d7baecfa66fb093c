"""How calls submit, find and await jobs.

Knows: what ends a wait: the job, the caller, the server. Does not know: what is answered then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from pipelines.request import GenerationRequest
from server.errors import TooManyAtOnce
from server.facades.kit.errors import Unavailable
from server.jobs.job import Job
from server.jobs.jobs import Jobs, NoWorker, Stopped
from server.jobs.order import Order
from server.limits.shares import holder
from server.request_state import note_model


async def submit_job(request: Request, jobs: Jobs, generation: GenerationRequest, order: Order) -> Job:
    job = await run_in_threadpool(jobs.submit, generation, order)
    note_model(request, job.model)
    return job


def find_job(request: Request, jobs: Jobs, job_id: str | int, facade: str) -> Job | None:
    """The caller's own job with that id or number."""
    job = jobs.find(job_id, facade, request.state.owner)
    if job is not None:
        note_model(request, job.model)
    return job


async def ended_within(request: Request, jobs: Jobs, job: Job, seconds: float) -> Job:
    """The job once it has ended, or as it is after so many seconds. Returns `job` itself if too many calls wait, the
    job is removed, or the server stops."""
    with suppress(KeyError, TooManyAtOnce), jobs.waits.held(holder(request.state.owner, request)):
        return await jobs.wait(job.id, timeout=max(0.0, seconds))
    return job


async def ended(request: Request, jobs: Jobs, submit: Callable[[], Awaitable[Job]], *, one_shot: bool = False) -> Job:
    """The job that `submit` makes, once it has ended. As `finished_or_dropped`, but raises ClientDisconnect when the
    caller hung up, and TooManyAtOnce before the submission when too many calls of its owner wait."""
    with jobs.waits.held(holder(request.state.owner, request)):
        done = await finished_or_dropped(request, jobs, await submit(), one_shot=one_shot)
    if done is None:
        raise ClientDisconnect
    return done


async def finished_or_dropped(request: Request, jobs: Jobs, job: Job, *, one_shot: bool = False) -> Job | None:
    """The job once it is terminal; None when the caller hung up.

    `one_shot`: nobody can ask for the job after this call, so hanging up cancels it; other jobs go on. A call with an
    Idempotency-Key is never one-shot, because its caller can repeat it.

    Raises Unavailable when the server stops or no worker can start: the job stays queued if its caller can ask for it
    later, else it is cancelled.
    """
    one_shot = one_shot and job.idempotency is None
    waiting = asyncio.ensure_future(jobs.wait(job.id))
    dropped = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({waiting, dropped}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            try:
                return waiting.result()
            except Stopped:
                if one_shot:
                    await run_in_threadpool(jobs.cancel, job.id)
                    raise Unavailable("The server is stopping; send the request again later") from None
                kept_for = f"request {job.id} stays queued, ask for it when the server is back"
                raise Unavailable(f"The server is stopping; {kept_for}") from None
            except NoWorker as e:
                if one_shot:
                    await run_in_threadpool(jobs.cancel, job.id)
                    raise Unavailable(e.message) from None
                raise Unavailable(f"{e.message}; request {job.id} stays queued until then") from None
        if one_shot:
            await run_in_threadpool(jobs.cancel, job.id)
        return None
    finally:
        if not waiting.cancel() and not waiting.cancelled():
            waiting.exception()  # or asyncio complains that nobody looked at it
        dropped.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
