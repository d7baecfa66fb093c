"""What a worker says and prints when its engine fails."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.events import Failed
from server.jobs import worker
from server.jobs.protocol import Run
from tests.server import fake_engine


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [(fake_engine.GenerationError("bad_output", "black"), "bad_output", False), (KeyError("x"), "internal", True)],
)
def test_only_the_unexpected_is_printed(
    capsys: pytest.CaptureFixture[str], error: Exception, code: str, printed: bool
) -> None:
    class Engine:
        def run(self, *_: Any) -> None:
            raise error

    inbox: Any = None
    (said,) = worker.events(fake_engine, Engine(), Run("id", 1, {"prompt": "a", "seed": 1}, "tiny"), inbox)
    assert isinstance(said, Failed) and said.code == code
    assert ("Traceback" in capsys.readouterr().err) is printed


def test_a_closed_stderr_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    worker._print_traceback()
