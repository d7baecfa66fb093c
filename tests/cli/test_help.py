"""`--help` of every command and of every group of commands says something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from click import Command
from typer.testing import CliRunner

from server.cli import app


def commands(command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output and "--help" in done.output
