"""Separate processes inspect untrusted files. The server limits, ends and replaces these processes, and leaves none
behind when it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from starlette.exceptions import HTTPException

from pipelines.lora.layout import LoraError
from pipelines.video import MediaUnreadable
from server.media import inspector
from server.media.inspectors import Inspectors, TooSlow
from tests.rigs import pace
from tests.rigs.attacks import images


@pytest.fixture
def idle_inspectors() -> None:
    """Overrides the shared fixture, so that the tests keep idle inspectors as a server does."""


def ran(work: Callable[[Inspectors], Awaitable[None]]) -> None:
    async def run() -> None:
        inspectors = Inspectors()
        try:
            await work(inspectors)
        finally:
            await inspectors.close()
            assert not inspectors._running

    asyncio.run(run())


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_small_image_leaves_its_inspector_and_a_large_one_does_not(tmp_path: Path) -> None:
    small = written(tmp_path / "small", images.small_png())
    large = written(tmp_path / "large", images.flat_png(3000, 3000))

    async def work(inspectors: Inspectors) -> None:
        await inspectors.image(small, "a")
        (one,) = inspectors._idle
        await inspectors.image(small, "b")
        assert inspectors._idle == [one]
        await inspectors.image(large, "a")
        assert len(inspectors._idle) == 1 and len(inspectors._running) == 1

    ran(work)


def test_refusals_come_back(tmp_path: Path) -> None:
    async def work(inspectors: Inspectors) -> None:
        for data, code in (
            (b"none", "unsupported_image_format"),
            (images.small_png()[:200], "image_load_error"),
            (images.many_scans(64, 64, 101), "image_load_error"),
            (images.many_scans(6000, 6000, 30), "image_load_error"),
            (images.empty_chunks(10_001), "image_load_error"),
            (images.empty_chunks(10_001, b"IDAT"), "image_load_error"),
            (images.tiny_segments(10_001), "image_load_error"),
            (images.gif_of(1, 10_001), "image_load_error"),
            (images.flat_png(1, 65_536), "image_too_large"),
        ):
            with pytest.raises(MediaUnreadable) as caught:
                await inspectors.image(written(tmp_path / "x", data), "")
            assert caught.value.code == code
        with pytest.raises(LoraError, match="cannot be read"):
            await inspectors.lora(written(tmp_path / "y", struct.pack("<Q", 2**40)), "")
        with pytest.raises(MediaUnreadable) as caught:
            await inspectors.image(tmp_path / "absent", "")

    ran(work)


def test_an_inspector_that_dies_is_replaced(tmp_path: Path) -> None:
    small = written(tmp_path / "small", images.small_png())

    async def work(inspectors: Inspectors) -> None:
        await inspectors.image(small, "")
        (one,) = inspectors._idle
        os.kill(one.process.pid, signal.SIGKILL)
        await one.process.wait()
        await inspectors.image(small, "")

    ran(work)


@pytest.mark.parametrize("how", ["STOP", "ABRT"])
def test_one_that_takes_too_long_or_breaks_refuses_the_file(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = written(tmp_path / "small", images.small_png())

    async def work(inspectors: Inspectors) -> None:
        await inspectors.image(small, "")
        os.kill(inspectors._idle[0].process.pid, signal.SIGSTOP)
        monkeypatch.setattr("server.media.inspectors.SECONDS", 0.5 if how == "STOP" else 60)
        asked = asyncio.create_task(inspectors.image(small, ""))
        if how == "ABRT":
            (process,) = inspectors._running
            await asyncio.sleep(0.05)
            os.kill(process.pid, signal.SIGABRT)
            os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(MediaUnreadable, match="too long, or too much memory"):
            await asked
        monkeypatch.setattr("server.media.inspectors.SECONDS", pace.seconds(60))
        await inspectors.image(small, "")

    ran(work)


def test_the_cpu_time_of_a_task_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel enforces the limit of CPU time, whatever the media library does."""
    written(tmp_path / "loop.py", b"from pipelines import inspector\ninspector.QUICK_CPU_SECONDS = 0.2\n"
            b"def turn(task):\n    while True: pass\ninspector.CHECKS['image'] = turn\ninspector.main()\n")  # fmt: skip
    monkeypatch.setattr("server.media.inspectors.inspector", type("", (), {"__name__": "loop"}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def work(inspectors: Inspectors) -> None:
        with pytest.raises(MediaUnreadable, match="too long, or too much memory"):
            await inspectors.image(tmp_path, "")

    ran(work)


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "eats.py", b"from pipelines import inspector\n"
            b"def eat(task): bytearray(4 * 2**30)\ninspector.CHECKS['image'] = eat\ninspector.main()\n")  # fmt: skip
    monkeypatch.setattr("server.media.inspectors.inspector", type("", (), {"__name__": "eats"}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def work(inspectors: Inspectors) -> None:
        with pytest.raises(MediaUnreadable, match="too much memory") as caught:
            await inspectors.image(tmp_path, "")
        assert caught.value.code == "image_load_error"

    ran(work)


def test_a_stop_ends_what_runs_and_refuses_what_comes(tmp_path: Path) -> None:
    small = written(tmp_path / "small", images.small_png())

    async def work(inspectors: Inspectors) -> None:
        await inspectors.image(small, "")
        pid = inspectors._idle[0].process.pid
        os.kill(pid, signal.SIGSTOP)
        tasks = [asyncio.create_task(inspectors.image(small, owner)) for owner in "abcdef"]
        tasks.append(asyncio.create_task(inspectors.program(["sleep", "600"], 600)))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        inspectors.stop()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if outcome is not None:  # the outcome is None if the task finished before the stop
                assert isinstance(outcome, HTTPException) and outcome.status_code == 503
        assert not psutil.pid_exists(pid)
        with pytest.raises(HTTPException):
            await inspectors.image(small, "g")

    ran(work)


def test_a_program_that_takes_too_long() -> None:
    async def work(inspectors: Inspectors) -> None:
        with pytest.raises(TooSlow):
            await inspectors.program(["sleep", "600"], 0.1)

    ran(work)


def test_neither_torch_nor_numpy_is_loaded() -> None:
    """An inspector starts in 0.05 s without torch and numpy, but takes seconds with them."""
    import subprocess

    from pipelines import child

    program = "import sys, server.media.inspector; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([*child.command("x")[:2], "-c", program], env=child.environment()).returncode == 0
    assert inspector.SLOW_CPU_SECONDS > inspector.QUICK_CPU_SECONDS
