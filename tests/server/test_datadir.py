"""The data folder: whose it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.datadir import DataDir


@pytest.fixture(autouse=True)
def usual_mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    DataDir(tmp_path / "new" / "data").close()
    assert (mode(tmp_path / "new"), mode(tmp_path / "new" / "data")) == (0o755, 0o700)


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o750)
    for _ in range(2):
        DataDir(folder).close()
        assert mode(folder) == 0o750
