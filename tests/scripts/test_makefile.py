"""The Makefile runs setup once, and again when a lock file or TORCH changes or after a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SETUP = """
import os, pathlib, sys
pathlib.Path(".venv").mkdir(exist_ok=True)
with open("calls", "a") as calls:
    print(*sys.argv[3:], file=calls)
sys.exit(int(os.environ.get("FAIL", 0)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "setup_environment.py").write_text(SETUP)
    for name in ("requirements.lock", "requirements-setup.lock", "requirements-dev.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    return tmp_path


def calls(folder: Path, *arguments: str, fails: bool = False) -> list[str]:
    """Runs make; returns the arguments of each setup that it ran."""
    (folder / "calls").write_text("")
    env = {n: v for n, v in os.environ.items() if not n.startswith(("MAKE", "TORCH"))} | {"FAIL": str(int(fails))}
    done = subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return [line.rstrip() for line in (folder / "calls").read_text().splitlines()]


def test_setup_runs_once_and_again_when_a_lock_changes(folder: Path) -> None:
    assert calls(folder, "setup") == ["--torch auto --torch-index"]
    assert calls(folder, "setup") == []
    assert calls(folder, "setup-dev") == ["--dev"]
    assert calls(folder, "setup-dev") == []
    os.utime(folder / "requirements-dev.lock", (2**32, 2**32))
    assert calls(folder, "setup") == []
    assert calls(folder, "setup-dev") == ["--dev"]
    os.utime(folder / "requirements.lock", (2**32, 2**32))
    assert calls(folder, "setup-dev") == ["--torch auto --torch-index", "--dev"]


def test_torch_decides_until_another_one_is_named(folder: Path) -> None:
    assert calls(folder, "setup") != []
    assert calls(folder, "TORCH=cuda", "setup") == ["--torch cuda --torch-index"]
    assert calls(folder, "setup") == []
    assert calls(folder, "TORCH=cuda", "setup") == []
    assert calls(folder, "TORCH=cpu", "TORCH_INDEX=http://here/", "setup") == ["--torch cpu --torch-index http://here/"]
    assert calls(folder, "TORCH=cuda", "setup") == ["--torch cuda --torch-index"]


@pytest.mark.parametrize("target", ["setup", "setup-dev"])
def test_a_failed_setup_is_tried_again(folder: Path, target: str) -> None:
    calls(folder, "setup")
    os.utime(folder / "requirements.lock", (2**32, 2**32))
    assert calls(folder, target, fails=True) != []
    assert not list((folder / ".venv").glob(".ready-*"))
    assert calls(folder, target) != []
