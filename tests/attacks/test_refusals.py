"""A flood of refused requests neither fills the log nor delays other clients."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.rigs.attacks.rig import ATTACKER, Target, attacked

REQUESTS = 2000
MOST_LINES = 200


def send(target: Target, number: int) -> int:
    """Sends one of several kinds of invalid request, each with its own id, value and key."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"authorization": f"Bearer {ATTACKER if number % 3 else f'guess{number}'}"}
        if number % 2:
            url = f"{target.url}/queue/fal-ai/cogvideox-5b/requests/{number}/status"
            return session.get(url, headers=headers, timeout=60).status_code
        body = {"prompt": f"secret{number}", "seconds": f"-{number}", f"field{number}": number}
        return session.post(f"{target.url}/v1/videos", json=body, headers=headers, timeout=60).status_code


@pytest.mark.slow
def test_a_flood_of_refused_requests(tmp_path: Path) -> None:
    with attacked(tmp_path) as target:
        before = len(target.log_text())
        with target.bystander() as seen, ThreadPoolExecutor(4) as senders:
            codes = list(senders.map(lambda number: send(target, number), range(REQUESTS)))
        assert all(400 <= code < 500 for code in codes), sorted(set(codes))
        target.assert_unnoticed(seen)
        target.assert_memory_returns()
        target.assert_stops()
        log = target.log_text()[before:]
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    refused = [line for line in lines if "refused" in line["event"]]
    assert {401, 404} <= {line["status"] for line in refused}
    assert len(refused) < MOST_LINES, f"{len(refused)} lines about {REQUESTS} requests"
    assert sum(line.get("count", 1) for line in refused) > REQUESTS / 2, "those not shown are counted"
    for secret in ("secret", "guess", "mallory:"):
        assert secret not in log
