"""The check of an upscaler's file at server start: bad files are refused with one line and run no code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines import child
from pipelines.frames import upscaler_check
from tests.rigs.pickled import Code
from tests.rigs.upscalers import small, spandrel


def test_what_is_a_network_and_what_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs the check in this process, because only here can the test replace a missing torchvision; spandrel imports
    it."""
    spandrel(monkeypatch)
    torch.save({"params": small("Compact").state_dict()}, tmp_path / "good.pth")
    save_file(small("ESRGAN").state_dict(), tmp_path / "good.safetensors")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"a": Code(tmp_path / "code-ran")}, tmp_path / "code.pth")
    (tmp_path / "plain-code.pth").write_bytes(pickle.dumps(Code(tmp_path / "code-ran")))
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "empty.pth").touch()
    for name in ("good.pth", "good.safetensors"):
        assert upscaler_check.main(str(tmp_path / name)) == 0, name
        assert upscaler_check.wrong_file(tmp_path / name) is None
    assert capsys.readouterr().out == ""
    for name in ("other.pth", "code.pth", "plain-code.pth", "text.pth", "text.safetensors", "empty.pth"):
        assert upscaler_check.main(str(tmp_path / name)) == child.REFUSED, name
        said = capsys.readouterr().out
        assert said.startswith(f"{name} is no") and "\n" not in said, said
    assert not (tmp_path / "code-ran").exists()


def test_the_reading_process_runs_nothing_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("import os; os.mkdir('code-ran')")
    (tmp_path / "text.pth").write_text("text")
    monkeypatch.chdir(tmp_path)
    said = upscaler_check.refusal(Path("text.pth"))
    assert said is not None and said.startswith(("is no upscaler", "needs the package spandrel")), said
    assert "text.pth" not in said and not Path("code-ran").exists()
