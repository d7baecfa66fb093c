"""Tests issued API keys: their stored fields, their changes while a server runs, and the limits per key."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from server import keys as keys_module
from server.auth import Unauthorized
from server.cli.keys import app as commands
from server.errors import InsecureBind
from server.jobs.store import JobStore, Quota
from server.keys import KeyStore
from tests.rigs.house import app, house_of


@pytest.fixture(autouse=True)
def notices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "FRESH", -1.0)


def call(data: Path | None, *words: str) -> Result:
    return CliRunner().invoke(commands, [*words, *(["--data-dir", str(data)] if data else [])])


def run(data: Path, *words: str) -> str:
    result = CliRunner().invoke(commands, [*words, "--data-dir", str(data)])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_created_used_and_revoked_beside_a_running_server(tmp_path: Path) -> None:
    application = app(tmp_path)
    data = tmp_path / "data"
    ask = {"prompt": "steps=1"}
    with TestClient(application) as client:
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 200, "no key exists yet"
        first, second = run(data, "create", "a team"), run(data, "create", "another")
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 401
        made = client.post("/v2/cog-video-5b-t2v", json=ask, headers={"x-api-key": first}).json()
        for key, code in ((first, 200), (second, 404), (first[:-1] + "x", 401), (first.partition(".")[0], 401)):
            assert client.get(made["status_url"], headers={"authorization": f"Bearer {key}"}).status_code == code
        run(data, "revoke", first.partition(".")[0])
        assert client.get(made["status_url"], headers={"x-api-key": first}).status_code == 401
        assert client.get(made["status_url"], headers={"x-api-key": second}).status_code == 404
        run(data, "revoke", second.partition(".")[0])
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 401, "the server stays closed without keys"
    shown = run(data, "list")
    assert "a team" in shown and first.partition(".")[2][:8] not in shown
    again = CliRunner().invoke(commands, ["revoke", first.partition(".")[0], "--data-dir", str(data)])
    assert again.exit_code == 2 and "no valid key" in again.output


def test_only_a_hash_is_kept(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    key, issued = KeyStore(store.database).create("x", Quota())
    store.close()
    secret = key.partition(".")[2]
    assert len(secret) == 64 and secret.encode() not in (tmp_path / "jobs.db").read_bytes()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as db:
        assert db.execute("SELECT id, digest FROM api_keys").fetchall() == [(issued.id, issued.digest.hex())]


def test_a_keys_own_limits_go_before_the_servers(tmp_path: Path) -> None:
    """The server is not started, so every job stays in the queue."""
    application = app(tmp_path, jobs_per_key=1)
    house = house_of(application)
    try:
        issued = KeyStore(house.store.database)
        plain, _ = issued.create("plain", Quota())
        favoured, _ = issued.create("favoured", Quota(at_once=2))
        client = TestClient(application)

        def send(key: str) -> int:
            return client.post("/v2/cog-video-5b-t2v", json={"prompt": "a"}, headers={"x-api-key": key}).status_code

        assert [send(plain), send(favoured), send(favoured)] == [200, 200, 200]
        assert 400 <= send(plain) < 500 and 400 <= send(favoured) < 500
    finally:
        house.close()


def test_a_key_lets_others_in(tmp_path: Path) -> None:
    with pytest.raises(InsecureBind, match="keys create"):
        app(tmp_path, host="0.0.0.0")
    run(tmp_path / "data", "create", "x")
    house = house_of(app(tmp_path, host="0.0.0.0"))
    with pytest.raises(Unauthorized):
        house.context.keys.identify({})
    house.close()


def test_a_first_key_says_what_it_does(tmp_path: Path) -> None:
    data = tmp_path / "data"
    house_of(app(tmp_path)).close()
    first = call(data, "create", "bob")
    assert f"The server of {data} was open; from now on every request needs a key." in first.stderr
    second = call(data, "create", "eve")
    assert "was open" not in second.stderr and f"valid for the server of {data}" in second.stderr
    assert "Server: closed, 2 valid keys, 0 revoked." in run(data, "list")


def test_the_last_key_revoked_says_how_to_go_on(tmp_path: Path) -> None:
    data, application = tmp_path / "data", app(tmp_path)
    ask = {"prompt": "steps=1"}
    with TestClient(application) as client:
        name = run(data, "create", "bob").partition(".")[0]
        early = call(data, "delete", name)
        assert early.exit_code == 2 and f"revoke it first: cogvideox keys revoke {name}" in early.stderr
        gone = call(data, "revoke", name)
        assert gone.exit_code == 0 and "Server: closed, 0 valid keys, 1 revoked: every request" in gone.stderr
        assert "cogvideox keys delete ID" in gone.stderr
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 401
        open_again = call(data, "delete", name)
        assert open_again.exit_code == 0 and "Server: open" in open_again.stderr
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 200
    unknown = call(data, "delete", name)
    assert unknown.exit_code == 2 and f"there is no key {name}" in unknown.stderr


def test_deleting_the_last_key_opens_no_server_to_the_network(tmp_path: Path) -> None:
    data = tmp_path / "data"
    name = run(data, "create", "bob").partition(".")[0]
    house = house_of(app(tmp_path, host="0.0.0.0"))
    run(data, "revoke", name)
    run(data, "delete", name)
    assert house.context.keys.none and not house.context.keys.open
    with pytest.raises(Unauthorized):
        house.context.keys.identify({})
    house.close()


def test_the_log_says_when_the_server_closes_and_opens(tmp_path: Path) -> None:
    data, house = tmp_path / "data", house_of(app(tmp_path))
    keys = house.context.keys
    with capture_logs() as lines:
        keys.log_changes()
        name = run(data, "create", "bob").partition(".")[0]
        keys.log_changes()
        keys.log_changes()
        run(data, "revoke", name)
        keys.log_changes()
        run(data, "delete", name)
        keys.log_changes()
    house.close()
    assert [line["event"] for line in lines] == [
        "server is now closed: every request needs a key",
        "server is now open: no request needs a key",
    ]


def test_a_key_for_a_server_that_was_never_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COGVIDEOX_DATA_DIR", raising=False)
    for words in (("create", "bob"), ("list",), ("revoke", "abc"), ("delete", "abc")):
        refused = call(None, *words)
        assert refused.exit_code == 2 and str(tmp_path / "data") in refused.stderr, refused.output
        assert refused.stderr.startswith("cogvideox: no server has used the data folder")
        assert not list(tmp_path.iterdir())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    assert call(tmp_path / "home", "create", "bob").exit_code == 2
    made = call(None, "create", "bob", "--new")
    assert made.exit_code == 0 and f"Created {tmp_path / 'data'}" in made.stderr
    monkeypatch.setenv("COGVIDEOX_DATA_DIR", "named")
    assert call(None, "create", "bob").exit_code == 0
    for folder in ("data", "named"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
        assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / folder).iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 101, "\x1b[31mred"])
def test_labels_that_cannot_be_shown(tmp_path: Path, name: str) -> None:
    done = call(tmp_path / "data", "create", name)
    assert done.exit_code == 2 and done.stderr.startswith("cogvideox: NAME: must be 1 to 100 printable characters")


def test_labels_and_limits_that_look_like_something_else(tmp_path: Path) -> None:
    run(tmp_path / "data", "create", "[red]team[/]")
    assert "[red]team[/]" in run(tmp_path / "data", "list")
    for limit in ("0", "-1", str(10**30), "nan"):
        assert call(tmp_path / "data", "create", "bob", "--jobs-per-key", limit).exit_code == 2
