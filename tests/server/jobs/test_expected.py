"""Before a worker reports progress, the server estimates a job's time from the latest videos and the jobs ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipelines.request import GenerationRequest
from server.facades.modelslab.answers import USUAL_SECONDS, eta
from server.jobs.job import Job, Status
from server.jobs.order import Order
from server.media.artifact import Artifact
from tests.rigs.facade_rig import Clock, Rig, facade

FILE = Artifact("key", "video/mp4", "film.mp4", 9)
SECONDS, SAMPLING = 70.0, 40.0  # the times of each video in these tests


@pytest.fixture
def rig() -> Iterator[Rig]:
    with facade("modelslab", clock=Clock(1000.0)) as made:
        made.hold()
        yield made


def sent(rig: Rig, steps: int = 20) -> Job:
    request = GenerationRequest("a red circle", num_inference_steps=steps)
    return rig.context.jobs.submit(request, Order("modelslab", "text2video", ""))


def make(rig: Rig, steps: int = 20) -> None:
    sent(rig, steps)
    job = rig.store.claim()
    assert job is not None
    rig.store.progress(job.id, job.attempt, steps=steps)
    assert rig.clock.now is not None
    rig.clock.now += SECONDS
    rig.store.finish(
        job.id, job.attempt, video=FILE, poster=FILE, manifest=FILE, timings={"denoise": SAMPLING}, memory=""
    )


def test_nothing_is_known_before_the_first_video(rig: Rig) -> None:
    jobs = rig.context.jobs
    job = sent(rig)
    assert jobs.expected(job) is None
    assert (eta(None, 0), eta(None, 2)) == (USUAL_SECONDS, 3 * USUAL_SECONDS)


def test_what_the_latest_took_and_what_is_ahead(rig: Rig) -> None:
    jobs = rig.context.jobs
    make(rig)
    first, second = sent(rig), sent(rig)
    assert (jobs.expected(first), jobs.expected(second)) == (SECONDS, 2 * SECONDS)
    running = rig.store.claim()
    assert running is not None and running.id == first.id
    assert jobs.expected(running) == SECONDS, "it is loading its model, without a report yet"
    assert jobs.expected(second) == 2 * SECONDS, "one job is running, and no other is ahead in the queue"
    assert jobs.expected(replace(running, eta=12.5)) == 12.5
    assert jobs.expected(replace(running, status=Status.QUEUED, eta=0.1)) != 0.1, "the queue is ahead of the job again"


def test_more_steps_take_longer(rig: Rig) -> None:
    make(rig, 20)
    assert rig.context.jobs.expected(sent(rig, 50)) == SECONDS + 1.5 * SAMPLING
    assert eta(rig.context.jobs.expected(sent(rig, 10)), 1) == 2 * SECONDS
