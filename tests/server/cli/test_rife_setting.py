"""If COGVIDEOX_RIFE_WEIGHTS names no usable file, `serve` and `generate` say so in one line at startup."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.frames.rife_check import refusal
from server.cli import app
from tests.rigs import checkpoints
from tests.rigs.rife_files import files
from weights.interpolation import SHIPPED


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["serve", pytest.param("generate", marks=pytest.mark.slow)])
def test_a_file_that_is_none_is_told_at_the_start(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = {"serve": ["serve", "--port", "0"], "generate": ["generate", "a prompt", "-o", "a.mp4"]}[command]
    wrong = files(tmp_path)
    for file, says in list(wrong.items()) if command == "generate" else list(wrong.items())[:4:2]:
        monkeypatch.setenv("COGVIDEOX_RIFE_WEIGHTS", str(file))
        done = CliRunner().invoke(app, [*call, "--model", str(checkpoints.cached("5b")), "--device", "cpu"])
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert done.stderr.startswith(f"cogvideox: COGVIDEOX_RIFE_WEIGHTS={file}: "), done.stderr
        assert says in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert "weights_only" not in done.stderr
    assert not (tmp_path / "code-ran").exists() and not (tmp_path / "a.mp4").exists()


def test_a_file_that_is_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(SHIPPED.read_bytes())
    monkeypatch.setenv("COGVIDEOX_RIFE_WEIGHTS", "mine.safetensors")
    call = ["generate", "x", "--frames", "5", "--steps", "1", "--interpolate", "16", "-o", "a.mp4"]
    done = CliRunner().invoke(app, [*call, "--model", str(checkpoints.cached("5b")), "--device", "cpu"])
    assert done.exit_code == 0 and "10 frames" in done.stdout, done.output


def test_folders_where_the_command_is_given_are_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert refusal(SHIPPED) is None
