"""Fixtures: the façade that a test folder is named after, on the real job table; and a server for each test file."""

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
    """Builds rigs with the given settings; a rig lasts as long as its test."""
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
    """A server with the APIs of all clouds; the fixture `port` returns its port."""
    return app(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def port(made: FastAPI) -> Iterator[int]:
    with live(made) as port:
        yield port


@pytest.fixture(scope="module")
def client(made: FastAPI, port: int) -> TestClient:
    """A client of the server that the fixture `port` starts and stops."""
    return TestClient(made, raise_server_exceptions=False)
