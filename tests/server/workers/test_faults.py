"""The tests kill processes of a real server with the demo model in the middle of their work; no job is lost or changed.

`make soak` repeats these tests a hundred times.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.rigs import soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    outcome = soak.run(tmp_path, jobs=5, victims=("worker", "api", "both"), gap=(1.5, 2.0))
    assert (outcome.lost, outcome.differing, outcome.surplus_films) == ([], [], 0)
    assert outcome.attempts >= 7 and outcome.continued >= 1, "at least two kills hit a job, and one job was resumed"


def test_what_it_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    outcome = soak.Outcome(jobs=5, lost=["a failed"], differing=["b"], kills={"both": 1, "api": 2}, seconds=61.0)
    path = soak.saved(outcome)
    assert json.loads(path.read_text())["found"]["kills"] == {"both": 1, "api": 2}
    assert "| 5 | 3 (api 2, both 1) |" in (row := path.with_suffix(".md").read_text())
    assert "| 3 of 5 | 61.0 s |" in row
