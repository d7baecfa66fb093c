"""Tests the load benchmark's figures and makes one small run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import client as asking
from benchmarks import load
from tests.rigs import checkpoints


@pytest.mark.slow
def test_every_job_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    tiny = str(checkpoints.cached("5b"))
    assert load.main(["--model", tiny, "--jobs", "20", "--pollers", "10", "--seconds", "2", "--steps", "30"]) == 0
    (path,) = tmp_path.glob("*-load-*-cpu.json")
    found = json.loads(path.read_text())["found"]
    assert found["jobs_sent"] == found["jobs_accepted"] == sum(found["jobs_in_the_table"].values()) == 22
    assert found["jobs_in_the_table"]["running"] == found["lost"] == 0
    assert sum(found["states_at_the_end"].values()) == found["submit"]["count"] == 20
    for phase in ("computing", "idle"):
        steady, closed = found[phase]["once_a_second"], found[phase]["at_once_again"]
        assert steady["count"] == 20
        assert closed["count"] > 20 and 0 < closed["p50"] <= closed["p99"] <= closed["max"]
    assert found["computing"]["cores_used"]["worker"] > 0 == found["idle"]["cores_used"]["worker"]
    assert found["api_rss_bytes"]["before"] > 2**20
    assert path.with_suffix(".md").read_text().count("\n") == 3


def test_spread_is_by_rank() -> None:
    values = [n / 1000 for n in range(1, 201)]
    found = asking.spread(values[::-1])
    assert (found["count"], found["p95"], found["p99"], found["max"]) == (200, 0.19, 0.198, 0.2)
    assert asking.spread([])["p99"] is None


def test_errors_are_counted_once() -> None:
    one = asking.Asked([0.1], Counter({"503": 2})).spread()
    phase = {"once_a_second": one, "at_once_again": one, "cores_used": {"api": 0.5}}
    assert load.errors_in({"submit": one, "computing": phase, "jobs": 3}) == 6
