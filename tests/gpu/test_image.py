"""Dockerfile.cuda, checked without a container engine: copied files are in the build context, commands are valid."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile.cuda").read_text("utf-8")).splitlines()


def instructions(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in LINES if line.startswith(f"{word} ")]


def ignored(path: str) -> bool:
    """Whether .dockerignore excludes the path: the last pattern that matches it or a parent folder decides."""
    answer = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        if any(fnmatch.fnmatch("/".join(parts[: i + 1]), pattern) for i in range(len(parts))):
            answer = not line.startswith("!")
    return answer


def test_everything_copied_is_there_and_sent_along() -> None:
    sources = [name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]]
    locks = {"requirements.lock", "requirements-setup.lock", "requirements-cuda.lock"}
    assert locks | {"pyproject.toml", "server", "pipelines", "weights"} <= set(sources)
    for name in sources:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name


@pytest.mark.parametrize("path", [".git", ".env", ".venv", "data", "tests", "benchmarks", "training", ".cache"])
def test_nothing_else_is_sent_along(path: str) -> None:
    assert ignored(path)


def test_the_commands_are_lists_and_the_health_check_is_a_program() -> None:
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["cogvideox"]
    assert json.loads(command) == ["serve", "--host", "0.0.0.0"]
    (check,) = instructions("HEALTHCHECK")
    program = json.loads(check.partition("CMD")[2])
    assert program[:2] == ["python", "-c"]
    compile(program[2], "health", "exec")
    assert "/health/live" in program[2]


def test_it_does_not_run_as_root() -> None:
    assert LINES.index("USER 1000:1000") < next(i for i, line in enumerate(LINES) if line.startswith("ENTRYPOINT"))


def test_all_that_is_installed_is_pinned_by_hash_and_so_is_the_base() -> None:
    (base,) = instructions("ARG")
    assert re.fullmatch(r"BASE=python:3\.12-slim@sha256:[0-9a-f]{64}", base)
    assert {line.split()[0] for line in instructions("FROM")} == {"${BASE}"}
    installs = [
        part for line in instructions("RUN") for part in line.split("&&") if " install " in part and "pip" in part
    ]
    assert len(installs) == 3
    for one in installs:
        assert "--no-deps" in one
        assert "--require-hashes" in one or "/wheel/" in one


def test_the_volumes_have_one_name_each_in_every_text() -> None:
    texts = (ROOT / "Dockerfile.cuda").read_text("utf-8") + (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"-v ([a-z-]+):(/[a-z]+)", texts))
    assert named == {("cogvideox-models", "/models"), ("cogvideox-data", "/data")}
    assert json.loads(*instructions("VOLUME")) == ["/models", "/data"]
