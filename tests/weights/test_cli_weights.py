from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import weights as cli
from tests.rigs import checkpoints
from weights.pull import PullError

NAMES = ("cogvideox-2b", "cogvideox-5b", "cogvideox-5b-i2v", "cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints.cached("2b"), tmp_path / "source"))


def run(*words: str | Path, models: Path) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, words)), env={"COGVIDEOX_MODELS_DIR": str(models)})


def test_list_shows_everything_once(source: Path, tmp_path: Path) -> None:
    run("import", source, "--name", "mine", models=tmp_path / "models")
    lines = run("list", models=tmp_path / "models").stdout.splitlines()
    for name in (*NAMES, "demo", "mine"):
        assert len([line for line in lines if line.split()[:1] == [name]]) == 1
    assert "yes" in next(line for line in lines if line.startswith("mine"))
    assert "CogVideoX License" in next(line for line in lines if line.startswith("cogvideox-5b "))


def test_import_where_verify(source: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    imported = run("import", source, "--name", "mine", models=models)
    assert (imported.exit_code, imported.stdout.strip()) == (0, str(models / "mine"))
    assert run("where", "mine", models=models).stdout.strip() == str(models / "mine")
    deep = run("verify", "mine", "--deep", models=models)
    assert deep.exit_code == 0
    assert "every byte as recorded" in deep.stdout


@pytest.mark.parametrize("by_name", [True, False])
def test_verify_names_the_problems(source: Path, tmp_path: Path, by_name: bool) -> None:
    checkpoints.damage(source, "missing-model-index")
    checkpoints.damage(source, "torn-file")
    asked = source.name if by_name else source
    result = run("verify", asked, models=tmp_path)
    assert result.exit_code == 1
    assert "model_index.json: missing" in result.stdout
    assert "torn" in result.stdout
    assert "2 problem(s)" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("where", "cogvideox-5b"), "cogvideox weights pull cogvideox-5b"),
        (("where", "cogvideox-9b"), "did you mean cogvideox-5b?"),
        (("verify", "cogvideox-5b"), "is not installed"),
        (("import", "/nowhere"), "not a folder"),
        (("pull", "demo"), "ships with this project"),
    ],
)
def test_mistakes_are_one_line_and_code_2(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = run(*words, models=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_pull_prints_the_folder_or_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_fetch", lambda name, models_dir: models_dir / name)
    assert run("pull", "cogvideox-2b", models=tmp_path).stdout.strip() == str(tmp_path / "cogvideox-2b")

    def fails(name: str, models_dir: Path) -> Path:
        raise PullError("no network")

    monkeypatch.setattr(cli, "_fetch", fails)
    assert run("pull", "cogvideox-2b", models=tmp_path).exit_code == 2


def test_stopping_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(name: str, models_dir: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_fetch", stopped)
    assert run("pull", "cogvideox-2b", models=tmp_path).exit_code == 130


def test_the_licence_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = "CogVideoX License: free for research; commercial use needs registration with Zhipu: https://"
    assert terms in run("list", models=tmp_path).stdout

    def stopped(name: str, models_dir: Path) -> Path:
        raise PullError("no network")

    monkeypatch.setattr(cli, "_fetch", stopped)
    for name in ("cogvideox-5b", "zai-org/CogVideoX-5b", "THUDM/CogVideoX1.5-5B-I2V"):
        first, last = run("pull", name, models=tmp_path).stderr.splitlines()
        assert terms in first and last == "cogvideox: no network"
    assert run("pull", "cogvideox-2b", models=tmp_path).stderr == "cogvideox: no network\n"


def test_the_models_folder_of_an_env_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COGVIDEOX_MODELS_DIR", raising=False)
    (tmp_path / ".env").write_text("COGVIDEOX_MODELS_DIR=elsewhere\n")
    assert "models folder: elsewhere" in CliRunner().invoke(cli.app, ["list"]).stdout


def test_the_demo_is_no_odd_checkpoint(tmp_path: Path) -> None:
    assert "note:" not in run("verify", "demo", models=tmp_path).stdout
