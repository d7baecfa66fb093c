"""The `--help` of every command and command group works, is readable and shows the settings' defaults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
import typer
from click import Command
from typer.testing import CliRunner

from server.cli import app
from server.cli.settings_page import TOPICS, by_topic
from server.settings import Settings


def commands(command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output and "--help" in done.output


def page(*path: str) -> str:
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_setting_is_shown_with_its_default_under_a_topic() -> None:
    said = page("serve")
    for name, field in Settings.model_fields.items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"COGVIDEOX_{name.upper()} ")]
        default = field.get_default(call_default_factory=True)
        if default is None or name == "api_keys":
            assert "[default" not in line
        else:
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert line.rstrip().endswith(f"[default: {shown}]"), line
    assert sum(map(len, by_topic().values())) == len(Settings.model_fields)
    assert all(f"\n{topic}" in said for topic in TOPICS)


def test_flags_of_settings_show_the_settings_defaults() -> None:
    said = page("serve")
    for text in ("[default: 127.0.0.1]", "[default: 8000]", "[default: data]", "[default: info]"):
        assert text in said
    assert "[default: auto]" in page("generate") and "[default: the model's]" in page("generate")
    assert "models]" in page("weights", "pull")


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_types_and_usage_are_readable(path: tuple[str, ...]) -> None:
    said = page(*path)
    assert not re.search(r"<\w+(\[\w+\])?>|\{[\w|]+\}|\]\.\.\.\]", said), said


def test_generate_shows_commands_that_are_understood() -> None:
    examples = [line.strip() for line in page("generate").split("Examples:")[1].strip().splitlines()]
    assert len(examples) > 2
    known = page("generate")
    for example in examples:
        words = shlex.split(example)
        assert words[:2] == ["cogvideox", "generate"]
        assert all(f" {word} " in known for word in words if word.startswith("-"))
