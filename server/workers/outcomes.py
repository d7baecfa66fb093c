"""How an attempt at a job ends: done, failed, or lost with its worker; what the table says of it, and the log.

Knows: the store, where results are kept, how often a worker may die of a job, what a client may be told.
Does not know: workers, when to look.
"""

from __future__ import annotations

import re
import time
from typing import Any

import structlog

from pipelines.events import Finished
from server.errors import DiskFull
from server.jobs.job import Job, JobError
from server.jobs.loglines import KeyName, about, notes, seconds
from server.jobs.store import JobStore
from server.media.artifacts import Artifacts
from server.workers.results import discard, put
from server.workers.running import Running

STRIKES = 3  # confirmed deaths of workers after which a job is taken to be what kills them
UNEXPECTED = ("model_error", "internal", "out_of_memory")  # the others may quote what a client sent: not logged
TOO_LONG = "it ran too long"

PATH = re.compile(r"(?<![\w:/.<])~?/(?:[^\s'\":,;()]+/)*([^\s'\":,;()/]+)/?")

log = structlog.get_logger()


class Outcomes:
    """`longest`: seconds an attempt may last, None without a limit. `key_name`: as for the dispatcher."""

    def __init__(
        self,
        store: JobStore,
        artifacts: Artifacts,
        longest: float | None,
        key_name: KeyName = lambda owner: owner,
    ) -> None:
        self._key_name = key_name
        self._store = store
        self._artifacts = artifacts
        self._longest = longest

    def finished(self, job: Job, event: Finished) -> None:
        try:
            video, poster, recipe = put(self._artifacts, event, job.keep_seconds, job.owner)
        except (DiskFull, OSError) as e:
            message = f"the result could not be stored: {without_paths(str(e))}"
            self.failed(job, JobError("internal", message), detail=str(e))
            return
        try:
            self._store.finish(
                job.id,
                job.attempt,
                video=video,
                poster=poster,
                manifest=recipe,
                timings=event.timings,
                memory=event.memory,
            )
        except BaseException:
            discard(self._artifacts, (video, poster, recipe))
            raise
        log.info("job succeeded", **self._told(job), bytes=len(event.video), notes=notes(job))

    def failed(self, job: Job, error: JobError, detail: str = "") -> None:
        self._store.fail(job.id, job.attempt, error)
        more = {"detail": detail} if error.code in UNEXPECTED else {}
        about_field = {"field": error.field} if error.field else {}
        log.warning("job failed", **self._told(job), code=error.code, **about_field, **more)

    def _told(self, job: Job) -> dict[str, Any]:
        waited, ran = seconds(job.created_at, job.started_at), seconds(job.started_at, time.time())
        return {**about(job, self._key_name), "wait_seconds": waited, "run_seconds": ran}

    def lost(self, running: Running, evidence: str) -> None:
        """With its worker: it is tried again, unless it ran too long or has had that happen too often."""
        job = running.job
        if running.why_killed == TOO_LONG:
            message = f"it was not done after {self._longest:g} seconds, the longest a job may run here"
            self._store.fail(job.id, job.attempt, JobError("timeout", message))
            log.warning("job failed", **self._told(job), code="timeout")
            return
        evidence = f"{evidence}; {running.why_killed}" if running.why_killed else evidence
        deaths = [*job.deaths, f"attempt {job.attempt}: {evidence}"]
        self._store.log(job.id, deaths[-1], "ERROR")
        if len(deaths) < STRIKES or running.cancelled_at is not None:
            to = self._store.requeue(job.id, job.attempt, deaths)
            log.info("attempt lost", job_id=job.id, attempt=job.attempt, why=evidence, job_is=to.value)
            return
        message = f"its worker died {len(deaths)} times: {'; '.join(deaths)}"
        self._store.fail(job.id, job.attempt, JobError("worker_lost", message), deaths)
        log.warning("job failed", **self._told(job), code="worker_lost")


def shown(job: Job, code: str, message: str) -> str:
    """What a client is told: nothing of the server's folders."""
    if code == "model_error":
        return f"the model {job.model} does not work on this server; its log says why"
    return without_paths(message)


def without_paths(text: str) -> str:
    """`text` with each absolute path in it cut to its last part."""
    return PATH.sub(r"\1", text)
