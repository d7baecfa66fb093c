"""Permissions of the data folder and its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.datadir import DataDir
from server.jobs.store import JobStore


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


def test_an_own_folder_that_others_can_open_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for made in (folder, folder / "keys", folder / "artifacts", folder / "inputs"):
        made.mkdir()
        made.chmod(0o755)
    (folder / "jobs.db").touch()
    DataDir(folder).close()
    assert {mode(path) for path in folder.iterdir() if path.is_dir()} == {0o700}
    assert (mode(folder), mode(folder / "lock")) == (0o700, 0o600)


def test_a_folder_with_other_things_in_it_stays_as_it_is(tmp_path: Path) -> None:
    """The folder may be a home folder or /tmp, so only what the server creates in it is private."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").touch()
    DataDir(folder).close()
    assert mode(folder) == 0o755
    assert {mode(path) for path in folder.iterdir() if path.is_dir()} == {0o700}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_job_table_is_its_owners_alone(tmp_path: Path, mask: int) -> None:
    os.umask(mask)
    folder = tmp_path / "data"
    for _ in range(2):
        DataDir(folder).close()
        store = JobStore(folder / "jobs.db")
        assert {mode(path) for path in folder.glob("jobs.db*")} == {0o600}
        store.close()
        for path in folder.glob("jobs.db*"):
            path.chmod(0o644)  # an earlier version left its files with this mode
