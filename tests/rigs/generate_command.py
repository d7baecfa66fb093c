"""`cogvideox generate` with the demo model, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.rigs import checkpoints

QUICK = ["--frames", "9", "--steps", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COGVIDEOX_MODELS_DIR", str(tmp_path / "models"))


def call(*arguments: str | Path, kind: checkpoints.Kind | None = "5b") -> Result:
    model = ["--model", str(checkpoints.cached(kind))] if kind else []
    return CliRunner().invoke(app, [*map(str, arguments), *model])
