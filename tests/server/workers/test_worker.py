"""A worker's events and output when its engine fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import GenerationError
from pipelines.events import Cancelled, Event, Failed, Finished, Paused
from pipelines.request import Media
from server.workers import worker
from server.workers.protocol import Run
from tests.rigs.engines import ask, new_engine


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [(GenerationError("bad_output", "black"), "bad_output", False), (KeyError("x"), "internal", True)],
)
def test_only_the_unexpected_is_printed(
    capsys: pytest.CaptureFixture[str], error: Exception, code: str, printed: bool
) -> None:
    class Engine:
        def run(self, *_: Any) -> Iterator[Event]:
            raise error

        def is_broken_by(self, _: Exception) -> bool:
            return False

    inbox: Any = None
    (said,) = worker.events(Engine(), Run("id", 1, {"prompt": "a", "seed": 1}, "tiny"), inbox, Path())
    assert isinstance(said, Failed) and said.code == code
    assert ("Traceback" in capsys.readouterr().err) is printed


def test_a_closed_stderr_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    worker._print_traceback()


class Told:
    """An inbox with or without a request to cancel or to pause."""

    def __init__(self, cancel: bool = False, pause: bool = False) -> None:
        self._cancel, self._pause = cancel, pause

    def cancelled(self, _: Run) -> bool:
        return self._cancel

    def paused(self, _: Run) -> bool:
        return self._pause


def test_the_real_engine_ends_in_words_the_worker_knows(tmp_path: Path) -> None:
    """The engine can make the next video after a cancelled or paused job, and after a bad upscaler file."""
    (tmp_path / "net.pth").write_bytes(b"no network")
    engine = new_engine(upscaler=tmp_path / "net.pth")

    def last(inbox: Any, **more: Any) -> Event:
        run = Run("id", 1, ask(num_inference_steps=1, **more).to_dict(), "5b")
        return list(worker.events(engine, run, inbox, tmp_path))[-1]

    assert isinstance(last(Told(cancel=True)), Cancelled)
    assert isinstance(last(Told(pause=True)), Paused)
    failed = last(Told(), width=128, height=96)
    assert (
        isinstance(failed, Failed) and failed.code == "model_error" and failed.message.startswith("upscaler: net.pth")
    )
    refused = last(Told(), num_frames=50, extend=True, video=Media("nowhere.mp4", "0"))
    assert isinstance(refused, Failed) and refused.field == "video"
    assert isinstance(last(Told()), Finished)
