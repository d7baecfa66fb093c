"""The command line imports heavy modules late. The tests check the list of loaded modules, and measure no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.rigs import checkpoints

HEAVY = ("torch", "transformers", "diffusers", "accelerate", "peft", "safetensors.torch")
SERVER = ("fastapi", "uvicorn", "sqlalchemy", "aiohttp", "huggingface_hub", "cryptography", "limits")
PROGRAM = """
import json, sys
from server.cli import app
try:
    app(sys.argv[1:])
except SystemExit as e:
    code = e.code
sys.stderr.write("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def run(folder: Path, *arguments: str, **environ: str) -> tuple[int, str, set[str]]:
    """Returns the exit code, the message on stderr and the names of the imported modules."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    said, _, report = done.stderr.rpartition("\n")
    code, modules = json.loads(report)
    return code, said, set(modules)


@pytest.mark.parametrize(
    ("arguments", "also"),
    [
        (["--help"], ()),
        (["--version"], ("pydantic",)),
        (["serve", "--help"], ()),
        (["generate", "--help"], ()),
        (["generate", "x", "--stepz", "3"], ()),
        (["keys", "create", "--help"], ()),
        (["weights", "list"], ()),
        (["lora", "list"], ()),
        (["serve", "--port", "-1"], ()),
    ],
    ids=" ".join,
)
def test_help_and_usage_errors_import_neither_engine_nor_server(
    arguments: list[str], also: tuple[str, ...], tmp_path: Path
) -> None:
    _, _, modules = run(tmp_path, *arguments)
    assert not modules & {*HEAVY, *SERVER, *also}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--steps", "0"], "--steps: must be between 1 and 1000, got 0"),
        (["x", "--strength", "0.5"], "--strength: acts on video-to-video only"),
        (["x", "--size", "721x481", "--strict"], "--size: 721x481 is not possible as asked: MP4 needs an even width"),
        (["x", "--image", "not.png"], "--image: not.png: the image is not a PNG, JPEG, WebP or GIF"),
        (["x", "--video", "not.mp4"], "--video: not.mp4: "),
        (["x", "--lora", "not.safetensors"], "--lora: not.safetensors: "),
        (["x", "-o", "there.mp4"], "--output: there.mp4 exists; --overwrite replaces it"),
        (["x", "-o", "not.png/a.mp4"], "--output: not.png "),
        (["x", "--frames", "16", "--strict"], "--frames: 16 is not possible as asked"),
        (["x", "--interpolate", "999"], "--interpolate: must be between 1 and 120"),
        (["x", "--fps", "60", "-o", "a.gif"], "--fps: a GIF plays at most 50 frames a second"),
        (["x", "--model", "cogvideox-5bb"], "--model=cogvideox-5bb: no such model; did you mean cogvideox-5b?"),
        (["x", "--model", "zai-org/CogVideoX-5b"], "not installed; cogvideox weights pull cogvideox-5b"),
        (["--batch", "gone.jsonl"], "--batch: gone.jsonl cannot be read: No such file or directory\n"),
        (["--batch", "bad.jsonl"], "bad.jsonl:1: steps: must be between 1 and 1000, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_generate_is_one_line_without_torch(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "not.png").write_text("text")
    (tmp_path / "not.mp4").write_text("text")
    (tmp_path / "not.safetensors").write_text("text")
    (tmp_path / "there.mp4").write_bytes(b"mine")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "steps": 0}')
    if "--model" not in arguments:
        arguments = [*arguments, "--model", f"{checkpoints.cached('5b')},{checkpoints.cached('5b-i2v')}"]
    code, said, modules = run(
        tmp_path, "generate", *arguments, "--device", "cpu", COGVIDEOX_MODELS_DIR=str(tmp_path / "models")
    )
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("cogvideox: ") and says in said, said
    assert not modules & set(HEAVY)
    assert (tmp_path / "there.mp4").read_bytes() == b"mine"


def test_every_job_of_a_batch_is_checked_first(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "good.png")
    lines = [{"prompt": "x"}, {"prompt": "x", "image": "good.png"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, said, modules = run(tmp_path, "generate", "--batch", "list.jsonl", "--model", str(checkpoints.cached("5b")))
    assert (code, "no checkpoint for image-to-video" in said) == (2, True), said
    assert not modules & set(HEAVY) and not (tmp_path / "list").exists()


@pytest.mark.parametrize("command", [["weights", "pull", "cogvideox-2b"], ["lora", "add", "owner/name"]], ids=" ".join)
def test_a_hub_that_cannot_be_reached_is_one_line(command: list[str], tmp_path: Path) -> None:
    """The command does not retry, because five retries would take half a minute. Its message mentions no retries."""
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    environ["COGVIDEOX_MODELS_DIR"] = str(tmp_path)
    code, said, modules = run(tmp_path, *command, **environ)
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("cogvideox: http://127.0.0.1:9 cannot be reached (") and "a download resumes" in said
    assert not modules & set(HEAVY)


@pytest.mark.parametrize("command", [["weights", "list"], ["lora", "list"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(tmp_path: Path, command: list[str]) -> None:
    """The reader of a pipe may close it early, for example `head` in `weights list | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-m", "server.cli", *command]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        program,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert done.stderr == ""
