"""Our own programs in processes of their own: which code they run, what they are told, how they are ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipelines import child
from pipelines.frames import rife_check
from pipelines.lora import unpickle
from pipelines.lora.layout import LoraError
from tests.rigs import pace


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory holds modules named like ours; each leaves a trace when it is run."""
    trace = tmp_path / "it ran"
    code = f"import pathlib; pathlib.Path({str(trace)!r}).touch()"
    for name in ("pipelines", "torch", "PIL", "weights"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    (tmp_path / "json.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    return trace


def test_a_folder_where_the_command_is_given_is_never_run(trap: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(4)}, tmp_path / "a.pt")
    unpickle.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    (tmp_path / "none.pkl").write_bytes(b"none")
    assert rife_check.refusal(tmp_path / "none.pkl") is not None
    assert child.run("server.media.inspector", seconds=pace.seconds(60)).returncode == 0
    assert (tmp_path / "a.safetensors").is_file() and not trap.exists()


def test_secrets_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGVIDEOX_API_KEYS", "id:secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/somewhere")  # an empty entry is the current directory
    assert not any("id:secret" in value or value == "secret" for value in child.environment().values())
    assert child.environment()["PYTHONPATH"] == f"{child.ROOT}{os.pathsep}/somewhere"


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, subprocess, sys\n"
        "sleeper = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(sleeper.pid))\n"
        "sleeper.wait()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        child.run("slow", str(tmp_path / "pid"), seconds=pace.seconds(2))
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + pace.seconds(10)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of the address space")
def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "greedy.py").write_text(
        "from pipelines import child\n"
        "child.confine(2**28)\n"
        "try:\n    bytearray(2**30)\nexcept MemoryError:\n    print('refused')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child.run("greedy", seconds=pace.seconds(60)).stdout == "refused\n"


def test_a_pickle_of_one_number_a_billion_times_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**15, 2**15)}, tmp_path / "a.pt")
    with pytest.raises(LoraError, match="no pickle of plain tensors"):
        unpickle.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
