from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import command_line


def test_both_sides_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(command_line, "COMMANDS", {"the version": ("--version",)})
    assert command_line.main(["--runs", "1", "--against", str(command_line.ROOT), "--label", "itself"]) == 0
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text())
    assert result["against"] == "itself"
    for side in ("here", "against"):
        assert result["commands"]["the version"][side]["cpu_seconds"] > 0
    assert "(before: " in file.with_suffix(".md").read_text()
