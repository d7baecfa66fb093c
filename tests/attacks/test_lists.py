"""One key requests long lists as fast as it can; this does not delay the client of another key."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import requests

from tests.rigs.attacks.rig import ATTACKER, attacked

CALLERS = 60
SECONDS = 5.0
JOBS = 100
PREDICTIONS = "/v1/models/cuuupid/cogvideox-5b/predictions"


@pytest.mark.slow
def test_long_lists_from_many_connections(tmp_path: Path) -> None:
    with attacked(tmp_path, max_queue=1000) as target, target.as_attacker() as attacker:
        target.measure_quiet()
        body = {"input": {"prompt": f"fail=internal {'a' * 10_000}"}}
        for _ in range(JOBS):
            attacker.post(f"{target.url}{PREDICTIONS}", json=body, timeout=60).raise_for_status()
        stop, codes = threading.Event(), set[int]()

        def ask() -> None:
            with requests.Session() as session:
                session.trust_env = False
                session.headers["authorization"] = f"Bearer {ATTACKER}"
                while not stop.is_set():
                    codes.add(session.get(f"{target.url}/v1/predictions", timeout=120).status_code)

        threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
        with target.bystander() as seen:
            for thread in threads:
                thread.start()
            stop.wait(SECONDS)
            stop.set()
            for thread in threads:
                thread.join()
        assert codes <= {200, 429}, codes
        target.assert_unnoticed(seen)
        target.assert_memory_returns()
        target.assert_stops()
