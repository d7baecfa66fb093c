"""The loop that brings queued jobs to workers and their words to the job table.

Knows: the store, the pool. Does not know: clients, HTTP, what follows from how an attempt ends (`outcomes`).
It alone claims jobs and talks to the pool. It runs as a thread of the API process for now and shares nothing with it
but the table and the nudge `wake`, without which it looks every POLL seconds, so it can move to a process of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

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
from server.errors import DataDirBusy, DiskFull, StaleWrite
from server.jobs.job import Job, JobError, Status
from server.jobs.loglines import KeyName, about, seconds
from server.jobs.store import JobStore
from server.media.artifacts import Artifacts
from server.workers.outcomes import TOO_LONG, Outcomes, shown, without_paths
from server.workers.pool import LocalPool
from server.workers.protocol import Died, Report, Run
from server.workers.running import Patience, Running
from server.workers.snapshots import Snapshots, sampling_of

POLL = 0.25  # seconds
WRITE_EVERY = 0.5  # seconds between two progress writes of one job
RETRY = 1.0  # seconds until a table that could not be written is tried again
HELD = 2.0  # seconds between two looks whether the table is still ours alone
TOLD = 10  # times at most in a stage that the job's log says how far it is
TELL_EVERY = 2.0  # seconds between two such lines of a stage after sampling

log = structlog.get_logger()


class Dispatcher:
    """`models`: the names a worker can be asked for. Times are taken from `clock`, in seconds that only go up.
    `key_name`: the name of an owner's key in the log."""

    def __init__(
        self,
        store: JobStore,
        pool: LocalPool,
        artifacts: Artifacts,
        snapshots: Snapshots,
        models: Collection[str],
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        key_name: KeyName = lambda owner: owner,
    ) -> None:
        self._key_name = key_name
        self._store = store
        self._pool = pool
        self._outcomes = Outcomes(store, artifacts, patience.run, key_name)
        self._snapshots = snapshots
        self._models = models
        self._patience = patience
        self._clock = clock
        self._running: dict[tuple[str, int], Running] = {}
        self._held_at = clock()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._main, name="dispatcher")

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._pool.wake()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def dead(self) -> bool:
        """Started, and no more at work."""
        return self._thread.ident is not None and not self.alive

    def drain(self) -> None:
        """Begins to stop: no new work, running jobs save and pause. A second call waits for them no longer."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._pool.wake()

    def stop(self) -> None:
        """Ends the workers, puts their jobs back into the queue, and returns when that is done."""
        self._stopping.set()
        self._pool.wake()
        if self._thread.ident is None:
            self._pool.close()  # never started
        elif self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        try:
            self._until_done(self._take_over)
            self._pool.start()
            while not self._stopping.is_set():
                self._until_done(self._hold)
                self._until_done(self._claim)
                self._turn()
            self._pause_all()
        except DataDirBusy as e:  # the jobs are that server's by now, also those that ran here
            log.error("no more work on jobs", reason=e.message)
            self._pool.close(f"{e.message}; start this one again when that one has stopped")
            return
        except BaseException:
            log.exception("dispatcher died")
        self._pool.close()
        with suppress(DataDirBusy):
            self._until_done(self._take_over)

    def _turn(self) -> None:
        self._until_done(self._pass_on_cancels)
        self._until_done(self._watch)
        for report in self._reports():
            self._until_done(lambda report=report: self._handle(report))  # type: ignore[misc]

    def _pause_all(self) -> None:
        until = self._clock() + self._patience.drain
        for job_id, attempt in self._running:
            self._pool.pause(job_id, attempt)
        while self._running and self._clock() < until and not self._hurry.is_set():
            self._turn()

    def _until_done(self, act: Callable[[], None]) -> None:
        """A database that is locked or has no room is asked again after a while: nothing else here makes sense then.

        A database that was away may have let another server in meanwhile: raises DataDirBusy.
        Whatever else goes wrong is logged, and the loop goes on: one odd job or row must not stop the others.
        """
        was_away = False
        while True:
            try:
                if was_away:
                    self._store.database.hold()
                return act()
            except DataDirBusy:
                raise
            except OperationalError as e:
                was_away = True
                log.error("job table not writable", error=str(e.orig))
                if self._stopping.wait(RETRY):
                    return None  # the next start finds the job running and requeues it
                for running in self._running.values():
                    running.heard_at = self._clock()  # it may have spoken: nobody has listened
            except Exception:
                log.exception("the dispatcher could not do something")
                self._stopping.wait(RETRY)  # lest it fails as fast as it can
                return None

    def _reports(self) -> list[Report]:
        try:
            return self._pool.reports(POLL)
        except Exception:
            log.exception("the workers could not be listened to")
            self._stopping.wait(RETRY)
            return []

    def _hold(self) -> None:
        if self._clock() - self._held_at >= HELD:
            self._store.database.hold()
            self._held_at = self._clock()

    def _take_over(self) -> None:
        """Jobs that ran when the server last stopped go back into the queue; what ended ones left is removed."""
        self._store.database.hold()
        for job_id in self._snapshots.job_ids():
            left = self._store.get(job_id)
            if left is None or left.status.is_terminal:
                self._snapshots.remove(job_id)
        for job in self._store.requeue_running():
            log.info("job requeued", job_id=job.id, attempt=job.attempt, why="the server stopped")
            self._store.log(job.id, f"attempt {job.attempt} ended with the server; queued again")

    def _claim(self) -> None:
        self._store.expire()
        while self._pool.free() and (job := self._store.claim()) is not None:
            if job.model not in self._models:
                message = f"{job.model} was accepted for this job and is no longer served here"
                self._store.fail(job.id, job.attempt, JobError("model_error", message))
                continue
            now = self._clock()
            sampling = sampling_of(job)
            self._running[job.id, job.attempt] = Running(job, sampling, heard_at=now, begun_at=now)
            try:
                resume = self._snapshots.read(job.id, sampling)
                continued = resume is not None
                waited = seconds(job.created_at, job.started_at)
                log.info("job started", **about(job, self._key_name), wait_seconds=waited, continued=continued)
                self._pool.run(Run(job.id, job.attempt, job.request.to_dict(), job.model, resume))
            except Exception as e:
                log.exception("job not handed over", job_id=job.id, attempt=job.attempt)
                del self._running[job.id, job.attempt]
                self._outcomes.failed(
                    job, JobError("internal", f"{type(e).__name__} while handing the job to a worker")
                )

    def _pass_on_cancels(self) -> None:
        if not self._running:
            return
        asked = self._store.unwanted([job_id for job_id, _ in self._running])
        now = self._clock()
        for (job_id, attempt), running in self._running.items():
            if running.cancelled_at is None and job_id in asked:
                running.cancelled_at = now
                self._pool.cancel(job_id, attempt)
            elif running.cancelled_at is not None and now - running.cancelled_at > running.grace():
                running.cancelled_at = now
                log.warning("worker does not stop, killing it", job_id=job_id, attempt=attempt)
                self._pool.kill(job_id, attempt)

    def _watch(self) -> None:
        """Kills workers that hang, and ends attempts that last too long."""
        now = self._clock()
        for (job_id, attempt), running in self._running.items():
            if running.why_killed:
                continue
            silence = now - running.heard_at
            if silence > running.silence(self._patience.silence):
                running.why_killed = f"it had said nothing for {silence:.0f} seconds"
            elif self._patience.run is not None and now - running.begun_at > self._patience.run:
                running.why_killed = TOO_LONG
            else:
                continue
            log.warning("killing a worker", job_id=job_id, attempt=attempt, why=running.why_killed)
            self._pool.kill(job_id, attempt)

    def _handle(self, report: Report) -> None:
        key = report.job_id, report.attempt
        running = self._running.get(key)
        if running is None:
            return
        running.heard_at = self._clock()
        try:
            if isinstance(report, Died):
                self._outcomes.lost(running, report.evidence)
                ended = True
            else:
                ended = self._heard(running, report.event)
        except StaleWrite as e:
            log.warning("refused", reason=e.message)
            self._pool.cancel(*key)
            ended = True
        except OperationalError:
            raise
        except Exception as e:  # one odd job must not stop the others
            log.exception("event not handled", job_id=report.job_id, attempt=report.attempt)
            self._pool.cancel(*key)
            try:
                self._outcomes.failed(
                    running.job, JobError("internal", f"{type(e).__name__} while handling the worker's report")
                )
            except StaleWrite as stale:  # it has ended otherwise
                log.warning("refused", reason=stale.message)
            ended = True
        if ended:
            del self._running[key]
            found = self._store.get(report.job_id)
            if found is not None and found.status is Status.SUCCEEDED:
                self._snapshots.keep(found.id, running.sampling)
            elif found is None or found.status.is_terminal:
                self._snapshots.remove(report.job_id)

    def _heard(self, running: Running, event: Event) -> bool:
        """Whether the attempt has ended with this event."""
        job = running.job
        match event:
            case Reworded(request):
                self._store.progress(job.id, job.attempt, request=request)
                running.job = replace(job, request=GenerationRequest.from_dict(request))
                running.sampling = sampling_of(running.job)
            case Started(plan):
                running.job = replace(running.job, plan=plan)
                self._store.progress(job.id, job.attempt, plan=plan)
            case Stage(name):
                running.stage = name
                running.looked_at = self._clock()
                self._write(running)
            case Progress():
                self._count(running, event)
            case Snapshot(data):
                self._keep(job, data)
            case Log(message, level):
                self._store.log(job.id, without_paths(message), level)
            case Finished():
                self._write(running)  # also asks whether the attempt still counts, before anything is stored
                self._outcomes.finished(running.job, event)
            case Failed(code, message, name):
                self._outcomes.failed(job, JobError(code, shown(job, code, message), name), detail=message)
            case Cancelled():
                self._store.cancelled(job.id, job.attempt)
                log.info("job cancelled", **about(running.job, self._key_name))
            case Paused():
                self._store.requeue(job.id, job.attempt)
                self._store.log(job.id, f"attempt {job.attempt} was paused; it resumes when the server is back")
                log.info("job paused", **about(running.job, self._key_name))
        return isinstance(event, Finished | Failed | Cancelled | Paused)

    def _count(self, running: Running, progress: Progress) -> None:
        job, now = running.job, self._clock()
        running.stage, running.share, running.eta = progress.stage, progress.share, progress.eta
        if progress.stage == "denoise":
            running.step, running.steps = progress.done, progress.total
            running.slowest = max(running.slowest, now - (running.looked_at or now))
            running.looked_at = now
        if running.tells(progress, now, TOLD, TELL_EVERY):
            self._store.log(job.id, sentence(progress))
        if now - running.written_at >= WRITE_EVERY:
            self._write(running)

    def _keep(self, job: Job, data: bytes) -> None:
        """Losing a snapshot costs no more than the time it would have saved."""
        try:
            self._snapshots.write(job.id, data)
        except (DiskFull, OSError) as e:
            log.warning("snapshot not kept", job_id=job.id, why=without_paths(str(e)))

    def _write(self, running: Running) -> None:
        running.written_at = self._clock()
        self._store.progress(
            running.job.id,
            running.job.attempt,
            stage=running.stage,
            step=running.step,
            steps=running.steps,
            share=running.share,
            eta=running.eta,
        )
