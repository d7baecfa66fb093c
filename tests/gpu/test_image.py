"""Dockerfile.cuda without a container engine: what it copies is there and sent along, what it runs is well-formed."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile.cuda").read_text("utf-8")).splitlines()


def instructions(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in LINES if line.startswith(f"{word} ")]


def ignored(path: str) -> bool:
    """The last pattern that matches the path, or a folder it lies in, wins."""
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
    assert {"pyproject.toml", "requirements.lock", "server", "pipelines", "weights"} <= set(sources)
    for name in sources:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name


@pytest.mark.parametrize("path", [".git", ".env", ".venv", "data", "tests", "benchmarks", "weights/training", ".cache"])
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


def test_the_dependencies_line_prints_requirements() -> None:
    import tomllib

    (line,) = [one for one in instructions("RUN") if "tomllib" in one]
    (program,) = re.findall(r'python -c "(.*?)"', line)
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [one.startswith(("torch>=", "spandrel>=")) for one in printed.splitlines()].count(True) == 2, printed
    with (ROOT / "pyproject.toml").open("rb") as f:
        names = tomllib.load(f)["project"]["dependencies"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()}
    for name in names:
        assert re.split(r"[\[><=]", name)[0].lower() in pinned, name
