"""For every test: one torch thread a process, because tests run beside each other and the models are tiny; the server's
log on stderr, as `cogvideox serve` has it, so that a command's output holds no line of another thread; and time limits
that scale with the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in the processes that tests start

import pytest
import pytest_timeout
import structlog

from tests.rigs import pace
from tests.rigs.ear import Ear

# else each of many processes compiles every module anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> object:
    return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=pace.seconds(settings.timeout)))


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Ear() as ear:
        yield ear
        ear.shutdown()
