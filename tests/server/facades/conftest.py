"""Builds the façade that the test's folder is named after, over the real job table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.rigs.facade_rig import Build, Rig, facade


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
