"""Updating the base image's digest: it comes from a registry tool, or stays unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.image_digest import main

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.mark.parametrize("pinned", ["", f"@{OLD}"])
def test_the_tags_digest_is_written(pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker fails and crane succeeds; the rest of the file stays unchanged."""
    file = tmp_path / "Dockerfile"
    file.write_text(f"# a comment\nARG BASE=python:3.12-slim{pinned}\nFROM ${{BASE}}\n")
    _tools(
        tmp_path,
        monkeypatch,
        docker="echo 'no such host' >&2; exit 1",
        crane=f'test "$2" = python:3.12-slim && echo {NEW}',
    )
    assert main(str(file)) == 0
    assert file.read_text() == f"# a comment\nARG BASE=python:3.12-slim@{NEW}\nFROM ${{BASE}}\n"


@pytest.mark.parametrize("tools", [{}, {"docker": "echo a cheerful sentence"}, {"skopeo": "exit 1"}])
def test_without_an_answer_nothing_changes(
    tools: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(f"ARG BASE=python:3.12-slim@{OLD}\n")
    _tools(tmp_path, monkeypatch, **tools)
    assert main(str(file)) == 1
    assert OLD in file.read_text()
    assert "nothing was changed" in capsys.readouterr().err


def _tools(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    (folder / "bin").mkdir()
    for name, program in programs.items():
        tool = folder / "bin" / name
        tool.write_text(f"#!/bin/sh\n{program}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
