"""One attempt at a job, from its hand-over to a worker until its end: stores the worker's reports, and kills a worker
that hangs.

Knows: the job table, the stores of results and snapshots, how long to wait, how many workers may die during one job.
Does not know: processes, threads, when it is called. While the database is unavailable, every method may raise
OperationalError. The caller may then repeat the call with the same arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError

from pipelines.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Log,
    Paused,
    Progress,
    Reworded,
    Snapshot,
    Stage,
    Started,
)
from pipelines.progress import sentence
from pipelines.request import GenerationRequest
from server.errors import DiskFull, StaleWrite
from server.jobs.job import Job, JobError, Status
from server.jobs.loglines import KeyName, about, notes, seconds
from server.jobs.store import JobStore
from server.media.artifacts import Artifacts
from server.workers.inputs import packed
from server.workers.milestones import Milestones
from server.workers.patience import Pace, Patience
from server.workers.pool import Pool
from server.workers.protocol import Died, Run
from server.workers.results import discard, put
from server.workers.shown import shown, without_paths
from server.workers.snapshots import Snapshots, sampling_of

STRIKES = 3  # after this many deaths of workers during a job, the job counts as the cause
WRITE_EVERY = 0.5  # seconds between two writes of progress
UNEXPECTED = (
    "model_error",
    "internal",
    "out_of_memory",
)  # codes whose messages are logged; other messages may quote the request

log = structlog.get_logger()


@dataclass(frozen=True)
class Records:
    """The stores that attempts write to. `key_name`: an owner -> the name of its key for the log."""

    store: JobStore
    artifacts: Artifacts
    snapshots: Snapshots
    key_name: KeyName = lambda owner: owner


class Attempt:
    """`job`: as claimed. `clock`: monotonic seconds."""

    def __init__(self, job: Job, pool: Pool, records: Records, patience: Patience, clock: Callable[[], float]) -> None:
        self.job = job
        self._pool = pool
        self._records = records
        self._store = records.store
        self._patience = patience
        self._clock = clock
        self._sampling = sampling_of(job)
        self._pace = Pace()
        self._milestones = Milestones()
        self._share = 0.0  # the part of the whole video's work that is done
        self._eta: float | None = None  # seconds until the video is complete
        self._begun_at = self._heard_at = clock()
        self._written_at = 0.0
        self._cancelled_at: float | None = None
        self._ran_too_long = False
        self._why_killed = ""
        self._ended = False

    @property
    def key(self) -> tuple[str, int]:
        return self.job.id, self.job.attempt

    # -- what the dispatcher does ---------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Hands the job and its latest snapshot to a free worker. On an error, marks the job as failed and returns
        False."""
        job = self.job
        try:
            resume = self._records.snapshots.read(job.id, self._sampling)
            waited = seconds(job.created_at, job.started_at)
            log.info("job started", **self._about(), wait_seconds=waited, continued=resume is not None)
            request, sources = packed(job.request)
            run = Run(job.id, job.attempt, request.to_dict(), job.model, resume, tuple(sources))
            self._pool.run(run, sources)
        except Exception as e:
            log.exception("job not handed over", job_id=job.id, attempt=job.attempt)
            self._fail(JobError("internal", f"{type(e).__name__} while handing the job to a worker"))
            return False
        return True

    def pause(self) -> None:
        """Asks the worker to save a snapshot and stop."""
        self._pool.pause(*self.key)

    def excuse_silence(self) -> None:
        """Measures the worker's silence from now. Call it after a time in which reports were not read."""
        self._heard_at = self._clock()

    def tick(self, unwanted: bool) -> None:
        """Forwards a cancellation to the worker. Kills the worker when it does not stop after that, is silent for too
        long, or runs for too long.

        `unwanted`: the job was cancelled or deleted, or is no longer running.
        """
        now = self._clock()
        if self._cancelled_at is None and unwanted:
            self._cancelled_at = now
            self._pool.cancel(*self.key)
        elif self._cancelled_at is not None and now - self._cancelled_at > self._pace.grace():
            self._cancelled_at = now
            log.warning("worker does not stop, killing it", job_id=self.job.id, attempt=self.job.attempt)
            self._pool.kill(*self.key)
        if self._why_killed:
            return
        silence, limit = now - self._heard_at, self._patience.run
        if silence > self._pace.silence(self._patience.silence):
            self._why_killed = f"it had said nothing for {silence:.0f} seconds"
        elif limit is not None and now - self._begun_at > limit:
            self._ran_too_long, self._why_killed = True, "it ran too long"
        else:
            return
        log.warning("killing a worker", job_id=self.job.id, attempt=self.job.attempt, why=self._why_killed)
        self._pool.kill(*self.key)

    def heard(self, event: Event | Died) -> bool:
        """Stores what the worker reports. Returns whether the attempt has ended."""
        self._heard_at = self._clock()
        if not self._ended:
            self._ended = self._written(event)
        if self._ended:
            self._keep_or_remove_snapshot()
        return self._ended

    # -- inside ---------------------------------------------------------------------------------------------------

    def _written(self, event: Event | Died) -> bool:
        try:
            return self._write(event)
        except StaleWrite as e:
            log.warning("refused", reason=e.message)
            self._pool.cancel(*self.key)
        except OperationalError:
            raise
        except Exception as e:  # a faulty job must not stop other jobs
            log.exception("event not handled", job_id=self.job.id, attempt=self.job.attempt)
            self._pool.cancel(*self.key)
            try:
                self._fail(JobError("internal", f"{type(e).__name__} while handling the worker's report"))
            except StaleWrite as stale:  # the job has ended meanwhile
                log.warning("refused", reason=stale.message)
        return True

    def _write(self, event: Event | Died) -> bool:
        """Returns whether the attempt has ended. Raises StaleWrite when another attempt owns the job."""
        job = self.job
        match event:
            case Reworded(request):
                reworded, own = GenerationRequest.from_dict(request), job.request
                reworded = replace(
                    reworded, image=own.image, video=own.video, loras=own.loras
                )  # with this machine's paths
                self._store.progress(job.id, job.attempt, request=reworded.to_dict())
                self.job = replace(job, request=reworded)
                self._sampling = sampling_of(self.job)
            case Started(plan):
                self.job = replace(job, plan=plan)
                self._store.progress(job.id, job.attempt, plan=plan)
            case Stage(name):
                self._pace.begin(name, self._clock())
                self._write_progress()
            case Progress():
                self._count(event)
            case Snapshot(data):
                self._keep(data)
            case Log(message, level):
                self._store.log(job.id, without_paths(message), level)
            case Finished():
                self._write_progress()  # also checks that this attempt owns the job, before the result is stored
                self._finish(event)
            case Failed(code, message, name):
                self._fail(JobError(code, shown(job.model, code, message), name), detail=message)
            case Cancelled():
                self._store.cancelled(job.id, job.attempt)
                log.info("job cancelled", **self._about())
            case Paused():
                self._store.requeue(job.id, job.attempt)
                self._store.log(job.id, f"attempt {job.attempt} was paused; it resumes when the server is back")
                log.info("job paused", **self._about())
            case Died(evidence=evidence):
                self._lost(evidence)
        return isinstance(event, Finished | Failed | Cancelled | Paused | Died)

    def _count(self, progress: Progress) -> None:
        now = self._clock()
        self._share, self._eta = progress.share, progress.eta
        self._pace.count(progress, now)
        if self._milestones.passed(progress, now):
            self._store.log(self.job.id, sentence(progress))
        if now - self._written_at >= WRITE_EVERY:
            self._write_progress()

    def _write_progress(self) -> None:
        self._written_at = self._clock()
        self._store.progress(
            self.job.id,
            self.job.attempt,
            stage=self._pace.stage,
            step=self._pace.step,
            steps=self._pace.steps,
            share=self._share,
            eta=self._eta,
        )

    def _keep(self, data: bytes) -> None:
        """Stores a snapshot; an error is only logged, because the job can run without it."""
        try:
            self._records.snapshots.write(self.job.id, data)
        except (DiskFull, OSError) as e:
            log.warning("snapshot not kept", job_id=self.job.id, why=without_paths(str(e)))

    def _keep_or_remove_snapshot(self) -> None:
        found = self._store.get(self.job.id)
        if found is not None and found.status is Status.SUCCEEDED:
            self._records.snapshots.keep(found.id, self._sampling)
        elif found is None or found.status.is_terminal:
            self._records.snapshots.remove(self.job.id)

    # -- how it ends ----------------------------------------------------------------------------------------------

    def _finish(self, event: Finished) -> None:
        job, artifacts = self.job, self._records.artifacts
        try:
            video, poster, manifest = put(artifacts, event, job.keep_seconds, job.owner)
        except (DiskFull, OSError) as e:
            message = f"the result could not be stored: {without_paths(str(e))}"
            self._fail(JobError("internal", message), detail=str(e))
            return
        try:
            files = {"video": video, "poster": poster, "manifest": manifest}
            self._store.finish(job.id, job.attempt, **files, timings=event.timings, memory=event.memory)
        except BaseException:
            discard(artifacts, (video, poster, manifest))
            raise
        log.info("job succeeded", **self._about_end(), bytes=len(event.video), notes=notes(job))

    def _fail(self, error: JobError, detail: str = "") -> None:
        self._store.fail(self.job.id, self.job.attempt, error)
        more = {"detail": detail} if error.code in UNEXPECTED else {}
        field = {"field": error.field} if error.field else {}
        log.warning("job failed", **self._about_end(), code=error.code, **field, **more)

    def _lost(self, evidence: str) -> None:
        """Handles the worker's death: requeues the job, unless the job ran too long or too many workers have died
        during it."""
        job = self.job
        if self._ran_too_long:
            message = f"it was not done after {self._patience.run:g} seconds, the longest a job may run here"
            self._store.fail(job.id, job.attempt, JobError("timeout", message))
            log.warning("job failed", **self._about_end(), code="timeout")
            return
        evidence = f"{evidence}; {self._why_killed}" if self._why_killed else evidence
        deaths = [*job.deaths, f"attempt {job.attempt}: {evidence}"]
        self._store.log(job.id, deaths[-1], "ERROR")
        if len(deaths) < STRIKES or self._cancelled_at is not None:
            to = self._store.requeue(job.id, job.attempt, deaths)
            log.info("attempt lost", job_id=job.id, attempt=job.attempt, why=evidence, job_is=to.value)
            return
        message = f"its worker died {len(deaths)} times: {'; '.join(deaths)}"
        self._store.fail(job.id, job.attempt, JobError("worker_lost", message), deaths)
        log.warning("job failed", **self._about_end(), code="worker_lost")

    def _about(self) -> dict[str, Any]:
        return about(self.job, self._records.key_name)

    def _about_end(self) -> dict[str, Any]:
        waited, ran = seconds(self.job.created_at, self.job.started_at), seconds(self.job.started_at, time.time())
        return {**self._about(), "wait_seconds": waited, "run_seconds": ran}
