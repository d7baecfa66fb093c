"""The progress display of `cogvideox generate`, on a terminal and elsewhere."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipelines.events import Progress
from server.cli import app, progress
from server.cli.progress import Display
from tests.rigs import checkpoints


class Hand:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_time_left_for_the_whole_that_counts_down() -> None:
    clock = Hand()
    display = Display(Console(file=io.StringIO()), clock)
    assert display.state() == "loading the model"
    display.stage("encode")
    assert display.state() == "encoding the prompt"
    display.progress(Progress("denoise", 5, 50, 0.08, 90.0))
    assert display.state() == "sampling 5 of 50, 8 %, about 90 s left"
    clock.now += 30
    assert display.state() == "sampling 5 of 50, 8 %, about 60 s left"
    clock.now += 300
    assert display.state().endswith("about 1 s left"), "a stage that exceeds its estimate is not done"
    display.progress(Progress("decode", 3, 13, 0.52, 12.0))
    assert display.state() == "decoding 3 of 13, 52 %, about 12 s left"
    display.stage("finish")
    assert display.state().startswith("finishing the file, 52 %"), "every stage has a name"


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    with Display(Console(file=out), every=0.05) as display:
        display.progress(Progress("decode", 3, 13, 0.52, 12.0))
        end = time.monotonic() + 20
        while out.getvalue().count("decoding") < 4 and time.monotonic() < end:
            time.sleep(0.02)
    lines = out.getvalue().splitlines()[1:]  # the first line may precede any progress report
    assert len(lines) >= 3 and "\x1b" not in out.getvalue()
    assert all(line.endswith(" left") and "s: decoding 3 of 13, 52 %, about " in line for line in lines)


def test_a_bar_on_a_terminal_shows_the_whole() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=100)) as display:
        display.progress(Progress("denoise", 50, 50, 0.25, 30.0))
        display._bar.refresh()
        display.line("a note [with brackets]", "dim")
    shown = out.getvalue()
    assert "sampling 50 of 50" in shown and " 25%" in shown and "about 30 s left" in shown
    assert "100%" not in shown and "a note [with brackets]" in shown


def test_a_run_without_a_terminal_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.02)
    monkeypatch.setattr(Display.__init__, "__defaults__", (time.monotonic, 0.02))
    arguments = ["generate", "a red circle", "--frames", "17", "--steps", "2", "--device", "cpu", "-o", "a.mp4"]
    done = CliRunner().invoke(app, [*arguments, "--model", str(checkpoints.cached("5b"))])
    assert done.exit_code == 0, done.output
    said = [line for line in done.stderr.splitlines() if " s: " in line]
    assert said and any("left" in line for line in said), done.stderr
