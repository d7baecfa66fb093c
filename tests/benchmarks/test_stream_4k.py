"""Runs the 4K memory benchmark on a small, short clip; the report must be complete and consistent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import stream_4k


def test_peaks_are_bytes_of_a_process() -> None:
    assert 10 * 2**20 < stream_4k.peak("self") == stream_4k.peak(os.getpid()) < 2**40
    assert stream_4k.peak(2**22 + 1) == 0, "no such process"


@pytest.mark.slow
def test_a_short_clip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(stream_4k, "SIZES", ((64, 48), (96, 64)))
    monkeypatch.setenv("OUT", str(tmp_path))
    assert stream_4k.main(["--seconds", "0.5", "--fps", "60", "--steps", "1", "--dry"]) == 0
    said = capsys.readouterr().out
    assert "'frames': 30" in said and "0.5 s at 60 fps" in said and "MiB" in said
    assert not list(tmp_path.iterdir())
