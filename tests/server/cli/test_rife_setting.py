"""COGVIDEOX_RIFE_WEIGHTS without a usable file: `serve` and `generate` report it at startup, in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipelines.frames.rife_check import refusal
from server.cli import app
from tests.rigs import checkpoints
from weights.interpolation import SHIPPED


class Code:
    """Creates the file `trace` when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def files(folder: Path) -> dict[Path, str]:
    torch.save({"block0.conv0.0.0.weight": Code(folder / "code-ran")}, folder / "code.pkl")
    (folder / "plain-code.pkl").write_bytes(pickle.dumps(Code(folder / "code-ran")))
    save_file({"transformer.a.lora_A.weight": torch.zeros(4, 4)}, folder / "style.safetensors")
    (folder / "torn.safetensors").write_bytes(SHIPPED.read_bytes()[:-9])
    (folder / "text.pth").write_text("not weights")
    return {
        folder / "gone.pkl": "there is no such file",
        folder / "net.onnx": "its name must end in .safetensors",
        folder / "code.pkl": "no pickle of plain tensors",
        folder / "plain-code.pkl": "no pickle of plain tensors",
        folder / "style.safetensors": "no RIFE weights; get flownet 4.25",
        folder / "torn.safetensors": "is not a file of tensors",
        folder / "text.pth": "no pickle of plain tensors",
    }


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
