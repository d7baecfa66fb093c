"""Settings for all tests. Each process has one torch thread, because tests run in parallel and the models are tiny. The
server logs to stderr, as `cogvideox serve` does, so that no log line of another thread ends up in a command's output.
Time limits scale with the machine's speed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# torch reads this variable on import, here and in the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import pytest_timeout
import structlog

from tests.rigs import pace
from tests.rigs.ear import Ear

# without a bytecode cache, each of the many processes would compile every module again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> object:
    return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=pace.seconds(settings.timeout)))


@pytest.fixture(autouse=True)
def log_settings() -> Iterator[None]:
    """Restores the log's configuration, which `cogvideox serve` changes for its whole process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Ear() as ear:
        yield ear
        ear.shutdown()
