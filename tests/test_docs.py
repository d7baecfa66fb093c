"""Runs every command and every program in the documentation, with the demo model.

Commands that need a GPU, a container engine or the hub are listed below, with the test that covers them instead.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.video import read_video
from server.cli import app as commands_of
from server.settings import Settings
from tests.rigs import forked, pace
from tests.rigs.clients.running import (
    fetch,
    few_steps,
    inherited,
    installed_packages,
    node,
    python_for,
    running_server,
)

ROOT = Path(__file__).resolve().parent.parent
DOCS = [
    p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))) if p.is_file()
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:8000"
MADE_ELSEWHERE = {
    "make serve": "tests/clients start the server that it runs",
    "make setup": "tests/scripts/test_setup_environment.py runs it against a small index",
    "git pull": "there is nothing to pull from",
    "python3 -m venv cogvideox-env": "as above",
    "cogvideox-env/bin/": "downloads gigabytes; the wheel is built below, and its dependencies are those of the locks",
    "make image": "needs a container engine; Dockerfile.cuda is read",
    "docker run": "needs a container engine; Dockerfile.cuda is read",
    "cogvideox weights pull": "needs the hub; tests/weights/test_pull.py runs it against a stand-in",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def blocks(language: str) -> list[str]:
    return [body for doc in DOCS for lang, body in FENCE.findall(doc.read_text("utf-8")) if lang == language]


def commands() -> list[str]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.removeprefix(".venv/bin/") for line in lines if line.strip()]


def elsewhere(command: str) -> bool:
    return any(command.startswith(start) for start in MADE_ELSEWHERE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("docs"), few_steps(), api_keys="") as address:
        yield address


def environ(folder: Path) -> dict[str, str]:
    env = inherited()
    env |= {"COGVIDEOX_MODELS_DIR": str(folder / "none"), "COGVIDEOX_DEVICE": "cpu", "NO_PROXY": "*", "no_proxy": "*"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        arguments, cwd=folder, env=environ(folder), capture_output=True, text=True, timeout=pace.seconds(600)
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def frames(path: Path) -> int:
    return len(read_video(path, max_frames=500, max_pixels=10**7, max_seconds=60).frames)


def test_commands_of_the_command_line(tmp_path: Path) -> None:
    """The commands run in the documentation's order, because later commands use the results of earlier commands."""
    Image.new("RGB", (96, 64), (40, 80, 220)).save(tmp_path / "first.png")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a blue square", "seed": 3, "frames": 9, "steps": 4}\n')
    ours = []
    for command in commands():
        words = shlex.split(command)
        if words[0] != "cogvideox" or elsewhere(command):
            continue
        if words[1] == "generate" and "--steps" not in words and "--batch" not in words:
            words += ["--steps", "4"]  # the documented command takes the default, which is only slower
        ours.append(words[1:])
    for words, said in zip(ours, forked.run(ours, tmp_path, environ(tmp_path), pace.seconds(900)), strict=True):
        if words[0] == "replay":
            assert "byte for byte the same file" in said
    assert len(ours) >= 7
    assert frames(tmp_path / "circle.mp4") == 49
    assert frames(tmp_path / "star.webm") == 25
    assert frames(tmp_path / "three-3.gif") == 49
    assert (tmp_path / "prompts" / "0001.mp4").is_file()


def test_curl(server: str, tmp_path: Path) -> None:
    found = [c for c in commands() if c.startswith("curl")]
    assert found
    for command in found:
        run(shlex.split(command.replace(ADDRESS, server)), tmp_path)
        assert frames(tmp_path / "video.mp4") > 16


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_programs(number: int, server: str, tmp_path: Path) -> None:
    program = blocks("python")[number]
    (tmp_path / "program.py").write_text(program.replace(ADDRESS, server))
    said = run([python_for(program), "program.py"], tmp_path)
    film = tmp_path / "video.mp4"
    if said.startswith(f"http://{server}/"):
        film.write_bytes(fetch(said.split()[0]).content)
    assert frames(film) > 16


@pytest.mark.parametrize("number", range(len(blocks("js"))))
def test_javascript_programs(number: int, server: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(installed_packages())
    (tmp_path / "program.mjs").write_text(blocks("js")[number].replace(ADDRESS, server))
    said = run([node()[0], "program.mjs"], tmp_path)
    film = tmp_path / "video.mp4"
    if said.startswith(f"http://{server}/"):
        film.write_bytes(fetch(said.split()[0]).content)
    assert frames(film) > 16


def test_the_readme_shows_every_client() -> None:
    """The README contains, between two markers, the output of `cogvideox clients --markdown`."""
    said = CliRunner().invoke(commands_of, ["clients", "--markdown"], env={"COGVIDEOX_PORT": "8000"})
    assert said.exit_code == 0
    shown = (ROOT / "README.md").read_text("utf-8").split("--markdown` -->\n")[1].split("<!-- /clients -->")[0]
    assert shown.strip() == said.stdout.strip()


def test_every_command_is_known() -> None:
    """A command that no test above runs must be in MADE_ELSEWHERE."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        assert command.startswith(("cogvideox ", "curl ")) or elsewhere(command), command
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", "\n".join(d.read_text("utf-8") for d in DOCS), re.MULTILINE):
        assert target in targets, f"make {target} is in the docs and not in the Makefile"


def test_every_setting_is_in_the_readme_and_the_other_way_round() -> None:
    named = set(re.findall(r"COGVIDEOX_([A-Z_]+)", (ROOT / "README.md").read_text("utf-8")))
    there = {name.upper() for name in Settings.model_fields}
    assert named <= there
    assert there - named <= {"INSECURE"}, "a flag, --insecure"


def test_make_serve_is_what_the_server_tests_start() -> None:
    dry = subprocess.run(["make", "--dry-run", "serve"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert any(line.endswith("cogvideox serve") for line in dry.stdout.splitlines())


def test_pip_can_install_this_folder(tmp_path: Path) -> None:
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*wheel, str(ROOT)], check=True, capture_output=True)
    (made,) = tmp_path.glob("cogvideox_server-*.whl")
    with zipfile.ZipFile(made) as content:
        names = set(content.namelist())
    assert {"server/cli/__init__.py", "weights/demo/model_index.json", "weights/demo/vae/config.json"} <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "training/"))]


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = (ROOT / "README.md").read_text("utf-8").split("```\nweights/")[1].split("```")[0]
    named = {"weights/", *re.findall(r"\b([a-z_/]+/)(?:\s|$)", tree)}
    assert not [name for name in sorted(named) if not (ROOT / name).is_dir()]
    packages = {
        f"{p.parent.relative_to(ROOT)}/" for top in ("pipelines", "server") for p in ROOT.glob(f"{top}/*/__init__.py")
    }
    assert packages <= named


@pytest.mark.parametrize("card", ["demo", "demo-i2v"])
def test_the_model_cards_programs(card: str, tmp_path: Path) -> None:
    (program,) = [
        body for lang, body in FENCE.findall((ROOT / "weights" / card / "README.md").read_text()) if lang == "python"
    ]
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    (tmp_path / "program.py").write_text(program.replace("num_inference_steps=45", "num_inference_steps=3"))
    run([sys.executable, "program.py"], tmp_path)
