"""Child processes that run our own modules: their imports, environment, time and memory limits."""

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
from pipelines.engine_port import EngineSpec
from pipelines.lora import unpickle
from pipelines.lora.layout import LoraError
from server.workers.local_pool import LocalPool
from server.workers.spec import WorkerSpec
from tests.rigs import pace
from tests.rigs.pace import until

# each module with a __main__ -> arguments with which the program ends by itself; its files are in the current directory
PROGRAMS: dict[str, tuple[str, ...]] = {
    "pipelines.lora.unpickle": ("a.pt", "a.safetensors"),
    "pipelines.frames.rife_check": ("none.pkl",),
    "pipelines.frames.upscaler_check": ("none.pth",),
    "server.media.inspector": (),
    "weights.loras": ("not a name", "loras", "1000", "30"),
}
TEXTS = {"server.facades.openai.recipes"}  # this module's text contains a program for users


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes into a directory with fake modules. They have the names of our modules and of modules that ours import. A
    fake module writes to the returned file when it is imported."""
    trace = tmp_path / "imported"
    code = f"open({str(trace)!r}, 'a').write(__name__ + ' ')\n"
    for name in ("pipelines", "server", "weights", "torch", "PIL", "typer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    for name in ("json", "pickle", "socket", "subprocess"):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(4)}, "a.pt")
    for name in ("none.pkl", "none.pth"):
        Path(name).write_bytes(b"none")
    return trace


def test_every_program_is_in_the_list() -> None:
    found = {
        ".".join(file.relative_to(child.ROOT).with_suffix("").parts)
        for package in ("pipelines", "server", "weights")
        for file in (child.ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in file.read_text()
    }
    assert found - TEXTS == set(PROGRAMS)


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_program_imports_nothing_from_the_current_directory(trap: Path, module: str) -> None:
    done = child.run(module, *PROGRAMS[module], seconds=pace.seconds(120))
    assert "Traceback" not in done.stderr, done.stderr
    assert not trap.exists(), trap.read_text()


def test_a_program_sees_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert child.environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_worker_imports_nothing_from_the_current_directory(trap: Path, tmp_path: Path) -> None:
    """By default, multiprocessing's child processes search the current directory first."""
    spec = WorkerSpec(EngineSpec({"tiny": tmp_path}), tmp_path / "inputs", engine_class="tests.rigs.fake_engine:Engine")
    pool = LocalPool(spec, ["cpu"])
    pool.start()
    try:
        until(lambda: pool.reports(0.1) or pool.workers()[0].state == "ready")
    finally:
        pool.close()
    assert not trap.exists(), trap.read_text()
    assert "PYTHONSAFEPATH" not in os.environ


def test_the_command_imports_nothing_from_the_current_directory(trap: Path) -> None:
    command = [str(Path(sys.executable).with_name("cogvideox")), "weights", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=pace.seconds(120))
    assert done.returncode == 0, done.stderr
    assert not trap.exists(), trap.read_text()


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
    with pytest.raises(LoraError, match="not a pickle of plain tensors"):
        unpickle.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
