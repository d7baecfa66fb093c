"""The loop that hands queued jobs to workers, and workers' reports to the attempts.

Knows: the job table, the pool, that the database may be unavailable. Does not know: clients, HTTP, what a report means
(`attempt.py`). Only the dispatcher claims jobs and uses the pool. The dispatcher is a thread of the API process and
shares only the table and `wake` with that process. Without `wake`, the thread looks at the table every POLL seconds. So
the dispatcher could become a separate process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog
from sqlalchemy.exc import OperationalError

from server.errors import DataDirBusy
from server.jobs.job import JobError
from server.workers.attempt import Attempt, Records
from server.workers.patience import Patience
from server.workers.pool import Pool
from server.workers.protocol import Died, Report

POLL = 0.25  # seconds
RETRY = 1.0  # seconds between two tries to write the table
HELD = 2.0  # seconds between two checks that no other server has taken the table

log = structlog.get_logger()


class Dispatcher:
    """`models`: names of the models that the workers have. `clock`: monotonic seconds."""

    def __init__(
        self,
        records: Records,
        pool: Pool,
        models: Collection[str],
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._store = records.store
        self._pool = pool
        self._models = models
        self._patience = patience
        self._clock = clock
        self._attempts: dict[tuple[str, int], Attempt] = {}
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
        """Whether the thread was started and has ended."""
        return self._thread.ident is not None and not self.alive

    def drain(self) -> None:
        """Begins to stop: starts no jobs, and pauses running jobs. After a second call, the dispatcher does not wait
        for running jobs to pause."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._pool.wake()

    def stop(self) -> None:
        """Ends the workers and puts their jobs back into the queue; returns when the workers have ended."""
        self._stopping.set()
        self._pool.wake()
        if self._thread.ident is None:
            self._pool.close()  # the thread was never started
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
        except DataDirBusy as e:  # another server now owns all jobs, including the jobs that ran here
            log.error("dispatcher stopped", reason=e.message)
            self._pool.close(f"{e.message}; start this one again when that one has stopped")
            return
        except BaseException:
            log.exception("dispatcher died")
        self._pool.close()
        with suppress(DataDirBusy):
            self._until_done(self._take_over)

    def _turn(self) -> None:
        self._until_done(self._tick)
        for report in self._reports():
            self._until_done(lambda report=report: self._handle(report))  # type: ignore[misc]

    def _pause_all(self) -> None:
        until = self._clock() + self._patience.drain
        for attempt in self._attempts.values():
            attempt.pause()
        while self._attempts and self._clock() < until and not self._hurry.is_set():
            self._turn()

    def _until_done(self, act: Callable[[], None]) -> None:
        """Retries `act` while the database is locked, full or unavailable, because nothing else can be done then.

        Raises DataDirBusy when another server has taken the database meanwhile. Other exceptions are logged, and the
        loop continues: a faulty job or row must not stop other jobs.
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
                    return None  # the server's next start finds the job in state running, and requeues it
                for attempt in self._attempts.values():
                    attempt.excuse_silence()
            except Exception:
                log.exception("dispatcher step failed")
                self._stopping.wait(RETRY)  # limits the rate of failures
                return None

    def _reports(self) -> list[Report]:
        try:
            return self._pool.reports(POLL)
        except Exception:
            log.exception("worker reports could not be read")
            self._stopping.wait(RETRY)
            return []

    def _hold(self) -> None:
        if self._clock() - self._held_at >= HELD:
            self._store.database.hold()
            self._held_at = self._clock()

    def _take_over(self) -> None:
        """Requeues the jobs that were running when the server last stopped; removes snapshots of ended jobs."""
        self._store.database.hold()
        for job_id in self._records.snapshots.job_ids():
            left = self._store.get(job_id)
            if left is None or left.status.is_terminal:
                self._records.snapshots.remove(job_id)
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
            attempt = Attempt(job, self._pool, self._records, self._patience, self._clock)
            if attempt.begin():
                self._attempts[attempt.key] = attempt

    def _tick(self) -> None:
        if self._attempts:
            unwanted = self._store.unwanted([job_id for job_id, _ in self._attempts])
            for (job_id, _), attempt in self._attempts.items():
                attempt.tick(job_id in unwanted)

    def _handle(self, report: Report) -> None:
        attempt = self._attempts.get((report.job_id, report.attempt))
        if attempt is not None and attempt.heard(report if isinstance(report, Died) else report.event):
            del self._attempts[attempt.key]
