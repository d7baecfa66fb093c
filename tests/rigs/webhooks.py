"""A courier that delivers the webhooks of a job table, and jobs that have one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from pipelines.request import GenerationRequest
from server.jobs.job import Job, Webhook
from server.jobs.store import JobStore
from server.media.outbound import Outbound
from server.webhooks import Courier, Letter
from tests.rigs import pace


def letter(job: Job, event: str) -> Letter | None:
    if event == "output":
        return None
    body = json.dumps({"id": job.id, "event": event, "status": job.status}).encode()
    return Letter(body, lambda body, now, number: {"content-type": "application/json", "x-signed": f"{len(body)}"})


def job(name: str, url: str, *events: str) -> Job:
    hook = Webhook(url, "http://here", events or ("completed",))
    return Job(name, "test", "e", GenerationRequest("p", seed=1), {}, "m", 1.0, webhook=hook)


def deliver(
    store: JobStore,
    until_true: Callable[[], bool],
    delays: tuple[float, ...] = (0.05, 0.05),
    allowed: Callable[[str], bool] = lambda _: True,
) -> None:
    async def main() -> None:
        outbound = Outbound(allowed)
        courier = Courier(store, outbound, {"test": letter}, delays)
        courier.start()
        end = time.monotonic() + pace.seconds(30)
        while not until_true():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        await courier.stop()
        await outbound.close()

    asyncio.run(main())
