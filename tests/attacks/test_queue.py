"""One key cannot fill the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.rigs.attacks.rig import attacked

SENT = 60
LIMIT = 20


@pytest.mark.slow
def test_a_key_cannot_fill_the_queue(tmp_path: Path) -> None:
    with attacked(tmp_path, max_queue=LIMIT) as target, target.as_attacker() as attacker:
        with target.bystander() as seen:
            codes = [_send(attacker, f"{target.url}{path}", body) for path, body in _jobs()]
        accepted = sum(code == 200 for code in codes)
        assert LIMIT // 2 <= accepted < SENT and set(codes) == {200, 429}, codes
        target.assert_unnoticed(seen)
        target.assert_stops()


def _jobs() -> list[tuple[str, dict[str, object]]]:
    """Returns submissions that alternate between the fal and OpenAI APIs."""
    prompt = "steps=2 sleep=0.05"
    fal = ("/queue/fal-ai/cogvideox-5b", {"prompt": prompt})
    openai = ("/v1/videos", {"prompt": prompt})
    return [(fal, openai)[n % 2] for n in range(SENT)]


def _send(attacker: requests.Session, url: str, body: dict[str, object]) -> int:
    return attacker.post(url, json=body, timeout=60).status_code
