"""Tests the benchmark of HTTP against plain diffusers: its figures, and a complete run on a tiny checkpoint."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import http_vs_plain, report
from tests.rigs import checkpoints, pace


@pytest.mark.slow
def test_both_sides_make_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(http_vs_plain, "POLLS", 3)
    tiny = str(checkpoints.cached("5b"))
    assert http_vs_plain.main(["--model", tiny, "--steps", "25", "--frames", "17"]) == 0
    (path,) = tmp_path.glob("*-first-light-*-cpu.json")
    found = json.loads(path.read_text())["found"]
    assert found["order"] == ["ours", "plain", "plain", "ours"]
    assert [len(found["runs"][side]) for side in ("ours", "plain")] == [2, 2]
    assert found["same"]["equal_through_one_encoder"]
    assert found["same"]["ours"] == found["same"]["plain"] == [17, 480, 720, 3]
    assert found["same"]["psnr_db"] > 25
    assert found["queue"]["polls"] == 3
    assert set(found["queue"]["codes"]) <= {200, 202}
    assert min(found["peak_rss_bytes"].values()) > 100 * 2**20
    assert min(found["cpu_seconds"].values()) > 0
    assert path.with_suffix(".md").read_text().count("\n") == 3


def test_what_segmind_refuses_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--steps", "3"], ["--frames", "9"]):
        with pytest.raises(SystemExit):
            http_vs_plain.main(wrong)
    assert "invalid choice" in capsys.readouterr().err


def test_psnr_is_that_of_the_definition() -> None:
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert http_vs_plain.psnr(black, black) == math.inf
    assert http_vs_plain.psnr(black, black[:, :1]) is None
    assert math.isclose(http_vs_plain.psnr(black, black + 5) or 0, 20 * math.log10(255 / 5))


def test_a_tree_of_processes_is_weighed_as_a_whole() -> None:
    """The parent process is small; its child holds 64 MiB."""
    child = "import sys; held = bytearray(b'x') * (64 << 20); print('held', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", parent], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"held\n"
        with http_vs_plain.Tree(process.pid) as tree:
            pass
        process.stdin.close()
        process.wait(pace.seconds(10))
    assert 64 * 2**20 < tree.peak < 256 * 2**20


def test_a_result_is_one_json_and_one_line_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    path = report.save("gpu 1.5-5b", "NVIDIA H200", {"a": 1}, {"one": "x", "two": "y"})
    assert path.name == f"{report.today()}-gpu-1.5-5b-nvidia-h200.json"
    assert json.loads(path.read_text()) == {"a": 1}
    assert path.with_suffix(".md").read_text() == "| one | two |\n| --- | --- |\n| x | y |\n"


def test_what_nobody_measured_says_so() -> None:
    assert {report.seconds(None), report.ratio(None), report.gib(None)} == {report.NOT_MEASURED}
    assert (report.seconds(0.0214), report.seconds(75.04), report.ratio(1.254)) == ("21 ms", "75.0 s", "1.25x")


def test_the_machine_is_named() -> None:
    machine = report.machine()
    assert machine["cores"] == os.cpu_count()
    assert machine["ram_gib"] > 0
    assert report.versions()["diffusers"]
