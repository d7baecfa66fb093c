"""`cogvideox clients` prints example programs that contain the URL and the API key and can be copied as they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from server.facades.facade import ADDRESS, KEY, Snippet
from server.facades.registry import FACADES

URL = "https://video.example.org:8443/there"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env
    for name in ("APIS", "PUBLIC_URL", "HOST", "PORT", "TLS"):
        monkeypatch.delenv(f"COGVIDEOX_{name}", raising=False)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["clients", *arguments])


def printed(*arguments: str) -> str:
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def of(name: str) -> tuple[Snippet, ...]:
    return FACADES[name].clients


@pytest.mark.parametrize("name", FACADES)
def test_every_cloud_has_programs_that_name_the_address_and_the_key(name: str) -> None:
    assert of(name)
    for snippet in of(name):
        assert ADDRESS.partition("://")[2] in snippet.text
        assert KEY in snippet.text
        assert snippet.language in ("python", "js", "sh", "yaml", "json")
        if snippet.language == "python":
            ast.parse(snippet.text)
    titles = [snippet.title for snippet in of(name)]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", FACADES)
def test_shows_a_clouds_programs_filled_in(name: str) -> None:
    said = printed(name, "--url", URL, "--key", "id:secret")
    for snippet in of(name):
        assert f" {snippet.title}\n\n{snippet.filled(URL, 'id:secret')}" in said
    assert ADDRESS not in said
    assert KEY not in said
    assert said.count("video.example.org:8443/there") >= len(of(name))


def test_what_is_printed_for_python_is_a_program() -> None:
    ast.parse(printed("segmind", "modelslab", "--url", URL))


def test_all_that_are_served_by_default_and_only_those(monkeypatch: pytest.MonkeyPatch) -> None:
    said = printed()
    for name in FACADES:
        assert all(snippet.title in said for snippet in of(name))
    assert KEY in said
    monkeypatch.setenv("COGVIDEOX_APIS", "segmind,fal")
    said = printed()
    assert said == printed("segmind") + "\n" + printed("fal")


def test_one_named_twice_is_shown_once() -> None:
    assert printed("fal", "fal") == printed("fal")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"PORT": "9000", "TLS": "true"}, "https://127.0.0.1:9000"),
        ({"HOST": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"HOST": "::"}, "http://[::1]:8000"),
        ({"HOST": "::1"}, "http://[::1]:8000"),
        ({"HOST": "gpu-box"}, "http://gpu-box:8000"),
        ({"HOST": "0.0.0.0", "PUBLIC_URL": "https://video.example.org/"}, "https://video.example.org"),
    ],
)
def test_the_address_is_where_these_settings_serve(
    given: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"COGVIDEOX_{name}", value)
    assert f'base_url="{address}/v1"' in printed("segmind")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aws"], "API: aws is not enabled here; enabled: fal, segmind"),
        (["fal", "aws"], "aws is not enabled"),
        (["fal", "--url", "127.0.0.1:8000"], "--url=127.0.0.1:8000: must look like"),
        (["fal", "--url", "ftp://here"], "must look like"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("cogvideox: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cloud_that_is_switched_off_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGVIDEOX_APIS", "segmind")
    done = call("fal")
    assert done.exit_code == 2
    assert "fal is not enabled here; enabled: segmind" in done.stderr
