"""Tests how long a worker may be silent or take to stop, the progress lines in a job's log, and that messages have no
paths."""

from __future__ import annotations

import pytest

from pipelines.events import Progress, StageName
from server.workers.milestones import EVERY, LINES, Milestones
from server.workers.patience import CANCEL_GRACE, STAGE_GRACE, STEP_SILENCE, Pace
from server.workers.shown import without_paths


def test_how_long_a_cancelled_worker_may_take() -> None:
    assert Pace().grace() == Pace("encode", steps=9, slowest=1.0).grace() == STAGE_GRACE
    assert Pace("denoise", steps=9).grace() == STAGE_GRACE  # the worker is in its first step
    assert Pace("denoise", 2, 9, slowest=0.1).grace() == CANCEL_GRACE
    assert Pace("denoise", 2, 9, slowest=20.0).grace() == 60.0
    assert Pace("decode", 9, 9, slowest=20.0).grace() == STAGE_GRACE


def test_how_long_a_worker_may_be_silent() -> None:
    assert Pace("decode", 9, 9, slowest=20.0).silence(1800.0) == 1800.0
    assert Pace("denoise", 2, 9, slowest=0.1).silence(1800.0) == STEP_SILENCE
    assert Pace("denoise", 2, 9, slowest=20.0).silence(1800.0) == 200.0
    assert Pace("denoise", 2, 9, slowest=20.0).silence(60.0) == 60.0


@pytest.mark.parametrize(("stage", "total"), [("denoise", 50), ("denoise", 3), ("decode", 60), ("write", 1000)])
def test_a_stage_gets_few_lines(stage: StageName, total: int) -> None:
    milestones = Milestones()
    lines = [n for n in range(1, total + 1) if milestones.passed(Progress(stage, n, total, 0.0, 1.0), 10.0 * n)]
    assert len(lines) <= LINES and lines[-1] == total
    assert lines[0] == 1 if stage != "denoise" else len(lines) == min(LINES, total)


def test_a_quick_stage_gets_a_first_and_a_last_line() -> None:
    milestones, between = Milestones(), EVERY / 200
    lines = [n for n in range(1, 50) if milestones.passed(Progress("write", n, 49, 0.0, 1.0), between * n)]
    assert lines == [1, 49]


def test_clients_see_no_folders() -> None:
    assert without_paths("OSError: no file '/srv/models/x y', see https://a.b/c/d and /a.b/c-d/e.bin.") == (
        "OSError: no file 'x y', see https://a.b/c/d and e.bin."
    )
    assert without_paths("1/2 of it, and/or 3 / 4") == "1/2 of it, and/or 3 / 4"
