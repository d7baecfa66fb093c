"""Fixtures for tests that run on both storages, local files and S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from server.media.storage import LocalStorage, Storage

if TYPE_CHECKING:
    from tests.rigs.s3 import Cloud


@pytest.fixture(autouse=True)
def idle_inspectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns off idle inspectors, because an idle inspector outlives its test's event loop and breaks a later test."""
    monkeypatch.setattr("server.media.inspectors.KEPT", 0)


@pytest.fixture(scope="session")
def s3() -> Iterator[Cloud]:
    from tests.rigs.s3 import cloud  # importing this module takes a second

    with cloud() as made:
        yield made


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        from server.media.storage_s3 import ObjectStorage

        s3: Cloud = request.getfixturevalue("s3")
        return ObjectStorage(s3.url())
    folder = tmp_path / "data" / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return LocalStorage(folder)
