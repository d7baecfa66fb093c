"""The job store behaves like a simple model while clients, workers and restarts act in any order."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from pipelines.request import GenerationRequest
from server.errors import QueueFull, StaleWrite
from server.jobs.job import Job, JobError, Status, Webhook
from server.jobs.store import JobStore
from server.media.artifact import Artifact

FILE = Artifact("k", "video/mp4", "video.mp4", 3)
LIMIT = 4
OWNERS = ("a", "b", "c")


@dataclass
class Expected:
    """The model's state of one job; `told` lists, in order, the events that its webhook must still receive."""

    number: int
    owner: str
    priority: int
    hears: bool
    status: Status = Status.QUEUED
    attempt: int = 0
    cancel_requested: bool = False
    told: list[str] = field(default_factory=list)


class StoreStates(RuleBasedStateMachine):
    ids = Bundle("ids")
    attempts = Bundle("attempts")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1000.0
        self.store = self.opened()
        self.jobs: dict[str, Expected] = {}
        self.served: dict[str, int] = {}
        self.claims = 0
        self.count = 0

    def opened(self) -> JobStore:
        return JobStore(Path(self.folder.name) / "jobs.db", clock=lambda: self.now)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    @rule(target=ids, owner=st.sampled_from(OWNERS), priority=st.sampled_from((-1, 0, 0, 1)), hears=st.booleans())
    def submit(self, owner: str, priority: int, hears: bool) -> Any:
        self.count += 1
        hook = Webhook("http://w", "http://h", ("start", "completed")) if hears else None
        request = GenerationRequest("p", seed=1)
        name = f"job{self.count}"
        new = Job(name, "f", "e", request, {}, "m", self.now, owner=owner, priority=priority, webhook=hook)
        if sum(e.status is Status.QUEUED for e in self.jobs.values()) >= LIMIT:
            with pytest.raises(QueueFull):
                self.store.submit(new, LIMIT)
            return multiple()
        self.jobs[name] = Expected(self.store.submit(new, LIMIT).number, owner, priority, hears)
        return name

    @rule(target=attempts)
    def claim(self) -> Any:
        claimed = self.store.claim()
        queued = {name: e for name, e in self.jobs.items() if e.status is Status.QUEUED}
        if not queued:
            assert claimed is None
            return multiple()
        running = {o: sum(e.owner == o and e.status is Status.RUNNING for e in self.jobs.values()) for o in OWNERS}

        def turn(name: str) -> tuple[int, int, int, int]:
            e = queued[name]
            return -e.priority, running[e.owner], self.served.get(e.owner, 0), e.number

        assert claimed is not None and claimed.id == min(queued, key=turn)
        self.claims += 1
        expected = self.jobs[claimed.id]
        self.served[expected.owner] = self.claims
        expected.status, expected.attempt = Status.RUNNING, expected.attempt + 1
        if expected.attempt == 1:
            self.hear(expected, "start")
        return claimed.id, claimed.attempt

    def hear(self, expected: Expected, event: str) -> None:
        if expected.hears:
            expected.told.append(event)

    def write(self, which: tuple[str, int], act: Any, to: Status | None) -> None:
        """Performs a worker's write. The write takes effect if its attempt owns the running job, and otherwise
        fails."""
        name, attempt = which
        expected = self.jobs.get(name)
        if expected is None or expected.status is not Status.RUNNING or expected.attempt != attempt:
            with pytest.raises(StaleWrite):
                act()
            return
        act()
        if to is not None:
            expected.status = to
            if to.is_terminal:
                self.hear(expected, "completed")
            if to is Status.CANCELLED:
                expected.cancel_requested = True

    @rule(which=attempts)
    def progress(self, which: tuple[str, int]) -> None:
        self.write(which, lambda: self.store.progress(*which, step=3), None)

    @rule(which=attempts)
    def finish(self, which: tuple[str, int]) -> None:
        done: dict[str, Any] = {"video": FILE, "poster": FILE, "manifest": FILE, "timings": {}, "memory": ""}
        self.write(which, lambda: self.store.finish(*which, **done), Status.SUCCEEDED)

    @rule(which=attempts)
    def fail(self, which: tuple[str, int]) -> None:
        self.write(which, lambda: self.store.fail(*which, JobError("internal", "m")), Status.FAILED)

    @rule(which=attempts)
    def stopped(self, which: tuple[str, int]) -> None:
        self.write(which, lambda: self.store.cancelled(*which), Status.CANCELLED)

    @rule(which=attempts)
    def lost(self, which: tuple[str, int]) -> None:
        expected = self.jobs.get(which[0])
        to = Status.CANCELLED if expected and expected.cancel_requested else Status.QUEUED
        self.write(which, lambda: self.store.requeue(*which), to)

    @rule(name=ids)
    def cancel(self, name: str) -> None:
        found, expected = self.store.cancel(name), self.jobs.get(name)
        assert (found is None) == (expected is None)
        if expected is None:
            return
        if not expected.status.is_terminal:
            expected.cancel_requested = True
        if expected.status is Status.QUEUED:
            expected.status = Status.CANCELLED
            self.hear(expected, "completed")

    @rule(name=ids)
    def delete(self, name: str) -> None:
        self.store.delete(name)
        self.jobs.pop(name, None)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.opened()
        self.store.requeue_running()
        for expected in self.jobs.values():
            if expected.status is Status.RUNNING:
                expected.status = Status.CANCELLED if expected.cancel_requested else Status.QUEUED
                if expected.status.is_terminal:
                    self.hear(expected, "completed")

    @rule(seconds=st.floats(-1000, 1000))
    def clock_jumps(self, seconds: float) -> None:
        self.now += seconds

    @rule(listens=st.booleans())
    def deliver(self, listens: bool) -> None:
        for notice in self.store.notices_due():
            told = self.jobs[notice.job_id].told
            assert notice.event == told[0], "events are delivered in order"
            if listens:
                self.store.notice_done(notice)
                told.pop(0)
            else:
                self.store.notice_put_off(notice, 0.0, "busy")

    @invariant()
    def nothing_is_lost_or_made_up(self) -> None:
        if not hasattr(self, "jobs"):
            return
        for name, expected in self.jobs.items():
            found = self.store.get(name)
            assert found is not None
            seen = (found.status, found.attempt, found.cancel_requested, found.owner, found.number)
            assert seen == (
                expected.status, expected.attempt, expected.cancel_requested, expected.owner, expected.number
            )  # fmt: skip
            assert (found.finished_at is not None) == found.status.is_terminal
            assert (found.video is not None) == (found.status is Status.SUCCEEDED)
        counts = self.store.counts()
        assert counts == {s: sum(e.status is s for e in self.jobs.values()) for s in Status}


StoreStates.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestStoreStates = StoreStates.TestCase
