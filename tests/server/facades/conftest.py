"""The façade that a test folder is named after, over the real job table; and a whole server for each test file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.rigs.facade_rig import Build, Rig, facade
from tests.rigs.house import app
from tests.rigs.live import live


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Iterator[Build]:
    """Builds rigs with the given settings; they last as long as the test."""
    vendor = request.path.parent.name
    with ExitStack() as there:

        def make(name: str = vendor, **settings: object) -> Rig:
            return there.enter_context(facade(name, **{"real_media": False, **settings}))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def served(build: Build) -> Rig:
    return build()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """A server with all clouds; `port` is where it listens."""
    return app(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def port(made: FastAPI) -> Iterator[int]:
    with live(made) as port:
        yield port


@pytest.fixture(scope="module")
def client(made: FastAPI, port: int) -> TestClient:
    """A client of the same server, which `port` starts and stops."""
    return TestClient(made, raise_server_exceptions=False)
