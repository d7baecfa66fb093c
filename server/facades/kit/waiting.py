"""Finds jobs, and waits for them during a call.

Knows: what ends a wait (the job, the caller or the server). Does not know: the response.
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
    """The caller's job with that id or number; None if the caller has no such job."""
    job = jobs.find(job_id, facade, request.state.owner)
    if job is not None:
        note_model(request, job.model)
    return job


async def ended_within(request: Request, jobs: Jobs, job: Job, seconds: float) -> Job:
    """Waits up to `seconds` for the job to end, and returns the latest state of the job. Returns `job` unchanged if too
    many calls are waiting, the job was deleted, or the server stops."""
    with suppress(KeyError, TooManyAtOnce), jobs.waits.held(holder(request.state.owner, request)):
        return await jobs.wait(job.id, timeout=max(0.0, seconds))
    return job


async def ended(request: Request, jobs: Jobs, submit: Callable[[], Awaitable[Job]], *, one_shot: bool = False) -> Job:
    """Calls `submit`, waits until the job has ended, and returns it. Unlike `finished_or_dropped`, raises
    ClientDisconnect if the caller hung up. Raises TooManyAtOnce before the submission if too many calls of the same
    owner are waiting."""
    with jobs.waits.held(holder(request.state.owner, request)):
        done = await finished_or_dropped(request, jobs, await submit(), one_shot=one_shot)
    if done is None:
        raise ClientDisconnect
    return done


async def finished_or_dropped(request: Request, jobs: Jobs, job: Job, *, one_shot: bool = False) -> Job | None:
    """Waits until the job has ended, and returns it; returns None if the caller hung up.

    `one_shot`: the client cannot get the job after this call, so the job is cancelled if the caller hangs up. The flag
    has no effect for a call with an Idempotency-Key, because the client can repeat such a call.

    Raises Unavailable when the server stops or no worker can start; then a one-shot job is cancelled, and any other job
    stays queued.
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
                kept_for = f"request {job.id} stays queued; get its result when the server runs again"
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
            waiting.exception()  # otherwise asyncio logs that the exception was never retrieved
        dropped.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
