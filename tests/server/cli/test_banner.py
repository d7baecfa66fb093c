"""The banner that `cogvideox serve` prints when it is ready."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.models import FAMILIES, describe
from server.cli import keys
from server.cli.serve import _banner, _broken
from server.served import Served
from tests.rigs.house import checkpoint, plain


def banner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *families: str, **given: str
) -> str:
    info = describe(checkpoint(tmp_path / "tiny"))
    infos = [info.__class__(**{**info.__dict__, "family": f}) for f in FAMILIES if f.name in families] or [info]
    served = Served({task: one for one in infos for task in one.tasks}, ("cpu",))
    monkeypatch.setattr("server.served.choose", lambda settings: served)
    monkeypatch.setenv("COLUMNS", "80")
    _banner("http://127.0.0.1:8000", plain(data_dir=tmp_path / "data", **given))
    return capsys.readouterr().err


def test_a_long_url_is_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://{'video.' * 12}example.org"
    said = banner(tmp_path, monkeypatch, capsys, public_url=url)
    assert f"  docs            {url}/docs\n" in said and f"  health          {url}/health\n" in said
    assert f"  data            {tmp_path / 'data'}\n" in said


def test_https_comes_with_the_variables_of_fals_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fal's client speaks https only, so its variables are useless over http."""
    line = "  FAL_RUN_HOST=a.example.org:8443/run FAL_QUEUE_RUN_HOST=a.example.org:8443/queue\n"
    assert line in banner(tmp_path, monkeypatch, capsys, public_url="https://a.example.org:8443")
    assert "FAL_" not in banner(tmp_path, monkeypatch, capsys)
    assert "FAL_" not in banner(tmp_path, monkeypatch, capsys, public_url="https://a.example.org", apis="openai")


def test_the_licence_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = banner(tmp_path, monkeypatch, capsys, "cogvideox-5b", "cogvideox-5b-i2v")
    assert said.count("commercial use needs registration with Zhipu: https://") == 1
    assert "License" not in banner(tmp_path, monkeypatch, capsys, "cogvideox-2b")


def test_a_worker_that_cannot_start_is_said_below_the_banner(capsys: pytest.CaptureFixture[str]) -> None:
    _broken("the worker on cpu cannot start: ImportError: libcudnn.so.9: cannot open; run `make setup`")
    said = capsys.readouterr().err
    assert "\nThis server makes no videos: the worker on cpu cannot start: ImportError: libcudnn" in said


def test_keys_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "keys            none: everybody" in banner(tmp_path, monkeypatch, capsys)
    assert "keys            1 valid, 0 revoked\n" in banner(tmp_path, monkeypatch, capsys, api_keys="id:secret")

    def run(*words: str) -> str:
        return CliRunner().invoke(keys.app, [*words, "--data-dir", str(tmp_path / "data")]).stdout

    name = run("create", "bob", "--new").partition(".")[0]
    run("revoke", name)
    said = banner(tmp_path, monkeypatch, capsys)
    assert "keys            0 valid, 1 revoked; no request is accepted until `cogvideox keys create NAME`\n" in said
    run("create", "eve")
    assert "keys            1 valid, 1 revoked\n" in banner(tmp_path, monkeypatch, capsys)
