"""Processes killed in the middle of their work, on the real server with the demo model: nothing lost, nothing changed.

`make soak` does it a hundred times over.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server import soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    outcome = soak.run(tmp_path, jobs=5, victims=("worker", "api", "both"), gap=(1.5, 2.0))
    assert (outcome.lost, outcome.differing, outcome.surplus_films) == ([], [], 0)
    assert outcome.attempts >= 7 and outcome.continued >= 1, "two kills at least hit a job, one went on from its middle"
