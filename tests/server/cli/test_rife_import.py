"""How `cogvideox weights` imports RIFE's network: the accepted files, the stored file, and its use in generation."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from pipelines.frames.rife import Shape, build, load
from pipelines.frames.rife_check import described
from server.cli import app
from server.errors import BadSetting
from server.served import choose
from server.settings import Settings
from tests.pipelines.frames.test_rife import FOUR, TINY, VERSIONS, state_dict
from tests.rigs import checkpoints
from tests.rigs.rife_files import files
from weights.interpolation import SHIPPED

pytestmark = pytest.mark.timeout(300)


def run(*words: str | Path, models: Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), env={"COGVIDEOX_MODELS_DIR": str(models)})


def weights(*words: str | Path, models: Path) -> Result:
    return run("weights", *words, models=models)


def rife_file(folder: Path, shape: str | Shape = TINY) -> Path:
    file = folder / "flownet.pkl"
    torch.save({f"module.{name}": value + 0.01 for name, value in state_dict(shape).items()}, file)
    return file


def stored(models: Path, shape: str | Shape = TINY) -> Path:
    done = weights("import", rife_file(models.parent, shape), models=models)
    assert done.exit_code == 0, done.output
    return models / "rife" / "flownet.safetensors"


def row(name: str, models: Path) -> str:
    (line,) = [line for line in weights("list", models=models).stdout.splitlines() if line.split()[:1] == [name]]
    return line


def test_a_pickled_file_is_kept_as_safetensors(tmp_path: Path) -> None:
    models, file = tmp_path / "models", rife_file(tmp_path, "4.25")
    assert row("rife", models).split()[1] == "-" and row("demo-rife", models).split()[1] == "yes"
    done = weights("import", file, models=models)
    kept = models / "rife" / "flownet.safetensors"
    assert (done.exit_code, done.stdout.strip()) == (0, str(kept)), done.output
    sha256 = hashlib.sha256(kept.read_bytes()).hexdigest()
    assert done.stderr.strip() == f"shaped like RIFE 4.25; sha256 {sha256}"
    assert sorted(p.name for p in kept.parent.iterdir()) == ["cogvideox-files.json", kept.name]
    assert kept.stat().st_mode & 0o777 == 0o644, "the server may run as another user"
    wanted, found = load(file, "cpu").state_dict(), load_file(kept)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert row("rife", models).split()[1:3] == ["yes", "23"], "23 MB"
    assert weights("where", "rife", models=models).stdout.strip() == str(kept.parent)

    again = weights("import", file, models=models)
    assert again.exit_code == 2 and f"{kept.parent} is already there: remove it first\n" in again.stderr
    named = weights("import", file, "--name", "mine", models=models)
    assert named.exit_code == 2 and "take no --name" in named.stderr

    for asked in ("rife", kept.parent):
        deep = weights("verify", asked, "--deep", models=models)
        assert (deep.exit_code, "every byte as recorded" in deep.stdout) == (0, True), deep.output
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert weights("verify", "rife", models=models).exit_code == 0
    assert "its SHA-256 differs from the record" in weights("verify", "rife", "--deep", models=models).stdout
    kept.write_bytes(content[:-1])
    torn = weights("verify", "rife", models=models)
    assert torn.exit_code == 1 and "flownet.safetensors: torn" in torn.stdout
    kept.unlink()
    assert "flownet.safetensors: missing" in weights("verify", "rife", models=models).stdout


def test_a_file_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    wrong, models = files(tmp_path), tmp_path / "models"
    (tmp_path / "net.onnx").write_bytes(b"")
    wrong[tmp_path / "style.safetensors"] = "a LoRA, not a checkpoint: cogvideox lora add"
    wrong[tmp_path / "torn.safetensors"] = "torn: "
    # tests/server/cli/test_rife_setting.py tests all such files
    for name in ("gone.pkl", "code.pkl", "style.safetensors", "torn.safetensors"):
        file, says = tmp_path / name, wrong[tmp_path / name]
        done = weights("import", file, models=models)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert done.stderr.startswith(f"cogvideox: {file}: ") and done.stderr.count("\n") == 1, done.stderr
        assert says in done.stderr
    assert not (tmp_path / "code-ran").exists()
    assert not (models / "rife").exists()
    assert not [*models.rglob("*.safetensors"), *models.glob(".partial/*")]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for command in ("where", "verify", "pull"):
        done = weights(command, "rife", models=tmp_path)
        assert done.exit_code == 2 and "cogvideox weights import FILE" in done.stderr
    assert weights("verify", "demo-rife", models=tmp_path).exit_code == 0
    assert weights("where", "demo-rife", models=tmp_path).stdout.strip() == str(SHIPPED.parent)
    assert "ships with this project" in weights("pull", "demo-rife", models=tmp_path).stderr
    taken = weights("import", checkpoints.cached("5b"), "--name", "rife", models=tmp_path)
    assert taken.exit_code == 2 and "choose another --name" in taken.stderr and not (tmp_path / "rife").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_shape_tells_the_version(version: str) -> None:
    assert version in described(VERSIONS[version][0]).split()


def test_shapes_of_nobody_are_said_to_be() -> None:
    assert described(TINY) == "shaped like no published RIFE: 4 blocks of 8, 6, 4, 4 channels"
    assert "small network" in described(build(state_dict(Shape((8, 8, 8, 8), 24, 0, 0, 0, FOUR))).shape)


def test_the_setting_wins_over_what_was_imported_and_that_over_what_ships(tmp_path: Path) -> None:
    models, mine = tmp_path / "models", tmp_path / "mine.safetensors"
    mine.write_bytes(SHIPPED.read_bytes())

    def chosen(given: Path | None = None) -> tuple[Path | None, tuple[str, ...]]:
        served = choose(Settings.load(models_dir=models, rife_weights=given, device="cpu"))
        return served.rife_weights, served.problems

    assert chosen() == (SHIPPED, ())
    kept = stored(models)
    assert chosen() == (kept, ())
    assert chosen(mine) == (mine, ())
    with pytest.raises(BadSetting, match="no such file"):
        chosen(tmp_path / "gone.pkl")
    kept.write_bytes(kept.read_bytes()[:-1])
    file, (problem,) = chosen()
    assert file == SHIPPED and problem.startswith("rife is installed and not used: flownet.safetensors: ")


def test_an_imported_network_draws_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    call = [
        "generate",
        "x",
        "--frames",
        "5",
        "--steps",
        "1",
        "--interpolate",
        "16",
        "--device",
        "cpu",
        "-o",
        "a.mp4",
        "--overwrite",
    ]
    told = {}
    for name in ("shipped", "imported"):
        if name == "imported":
            told["file"] = hashlib.sha256(stored(models).read_bytes()).hexdigest()
        done = run(*call, "--model", checkpoints.cached("5b"), models=models)
        assert done.exit_code == 0 and "10 frames" in done.stdout, done.output
        manifest = json.loads((tmp_path / "a.mp4.json").read_text())
        told[name] = manifest["interpolator"]["sha256"]
        assert any("small network" in note for note in manifest["notes"]) == (name == "shipped")
    assert told["imported"] == told["file"] != told["shipped"]


def test_the_list_begins_without_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from server.cli import app
app(["weights", "list", "--models-dir", {str(tmp_path)!r}], standalone_mode=False)
sys.exit("torch" in sys.modules or "safetensors" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
