"""Hundreds of unresponsive webhooks of one key do not delay the webhooks of another key."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import requests

from pipelines.request import GenerationRequest
from server.auth import Keys
from server.jobs.job import Job, JobError, Status, Webhook
from server.jobs.store import JobStore
from tests.rigs import pace
from tests.rigs.attacks.hosts import Answer, drip_head, hang, host
from tests.rigs.attacks.rig import ATTACKER, BYSTANDER, NOTICEABLE, Target, attacked
from tests.rigs.clients.running import free_port
from tests.rigs.ear import Ear
from tests.rigs.house import plain

pytestmark = pytest.mark.slow
PATH = "/queue/fal-ai/cogvideox-5b"
LETTERS = 700
SECONDS = 4.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("webhooks"), allow_private_urls=True) as target:
        yield target


def send(target: Target, key: str, hook: str) -> str:
    """Submits a job that fails immediately, so that its webhook is due immediately; returns its id."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"authorization": f"Key {key}"}
        answer = session.post(f"{target.url}{PATH}", params={"fal_webhook": hook}, json={}, headers=headers, timeout=60)
        answer.raise_for_status()
        return str(answer.json()["request_id"])


def fill(target: Target, hooks: list[str]) -> None:
    """Inserts failed jobs of the attacker with these webhooks directly into the table, which is faster than submitting
    them."""
    (owner,) = Keys(plain(api_keys=ATTACKER)).owners
    failed = Job("", "fal", "fal-ai/cogvideox-5b", GenerationRequest("p", seed=1), {}, "m", time.time(), Status.FAILED)
    with closing(JobStore(target.log.parent / "data" / "jobs.db")) as store:
        for hook in hooks:
            store.submit(
                replace(
                    failed,
                    id=str(uuid.uuid4()),
                    owner=owner,
                    error=JobError("internal", "broke"),
                    webhook=Webhook(hook, target.url),
                )
            )


def longest_letter(target: Target, ear: Ear, seconds: float) -> float:
    """Runs jobs for `seconds`; returns the longest delay, in seconds, from a job's end to its webhook."""
    longest, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        name = send(target, BYSTANDER, ear.url)
        begun = time.monotonic()
        while not any(name in json.dumps(body) for _, body in ear.heard):
            assert time.monotonic() < begun + pace.seconds(60), "the webhook was not called"
            time.sleep(0.01)
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.1)
    return longest


def attack_unnoticed(target: Target, hooks: list[str]) -> None:
    with Ear() as ear:
        quiet = longest_letter(target, ear, 1.0)
        fill(target, hooks)
        with target.bystander() as seen:
            longest = longest_letter(target, ear, SECONDS)
        ear.shutdown()
    assert longest <= quiet + pace.seconds(NOTICEABLE), f"{longest:.2f} s, without the attack {quiet:.2f} s"
    target.assert_unnoticed(seen)


@pytest.mark.parametrize("answer", [hang, drip_head])
def test_hosts_that_keep_their_callers(target: Target, answer: Answer) -> None:
    with host(answer, "0.0.0.0") as port:  # all of 127.0.0.0/8 reaches this server; each address counts as a host
        attack_unnoticed(target, [f"http://127.0.{n % 100}.1:{port}/hook" for n in range(LETTERS)])


def test_hosts_that_refuse(target: Target) -> None:
    attack_unnoticed(target, [f"http://127.0.0.1:{free_port()}/hook"] * LETTERS)


def test_the_server_stops_all_the_same(target: Target) -> None:
    target.assert_memory_returns()
    target.assert_stops()
