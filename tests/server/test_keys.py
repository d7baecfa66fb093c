"""Keys that are issued: what is kept of them, who notices, what they may."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from server.auth import Unauthorized
from server.cli.keys import app as commands
from server.errors import InsecureBind
from server.jobs import keys as keys_module
from server.jobs.keys import KeyStore
from server.jobs.store import JobStore, Quota
from tests.server.house import app, house_of


@pytest.fixture(autouse=True)
def notices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "FRESH", -1.0)


def run(data: Path, *words: str) -> str:
    result = CliRunner().invoke(commands, [*words, "--data-dir", str(data)])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_created_used_and_revoked_beside_a_running_server(tmp_path: Path) -> None:
    application = app(tmp_path)
    data = tmp_path / "data"
    ask = {"prompt": "steps=1"}
    with TestClient(application) as client:
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 200, "nobody has made a key yet"
        first, second = run(data, "create", "a team"), run(data, "create", "another")
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 401
        made = client.post("/v2/cog-video-5b-t2v", json=ask, headers={"x-api-key": first}).json()
        for key, code in ((first, 200), (second, 404), (first[:-1] + "x", 401), (first.partition(".")[0], 401)):
            assert client.get(made["status_url"], headers={"authorization": f"Bearer {key}"}).status_code == code
        run(data, "revoke", first.partition(".")[0])
        assert client.get(made["status_url"], headers={"x-api-key": first}).status_code == 401
        assert client.get(made["status_url"], headers={"x-api-key": second}).status_code == 404
        run(data, "revoke", second.partition(".")[0])
        assert client.post("/v2/cog-video-5b-t2v", json=ask).status_code == 401, "the last key gone opens no door"
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
    application = app(tmp_path, jobs_per_key=1)
    house = house_of(application)
    issued = KeyStore(house.health.store.database)
    plain, _ = issued.create("plain", Quota())
    favoured, _ = issued.create("favoured", Quota(at_once=2))
    with TestClient(application) as client:

        def send(key: str) -> int:
            body = {"prompt": "steps=500 sleep=0.05"}
            return client.post("/v2/cog-video-5b-t2v", json=body, headers={"x-api-key": key}).status_code

        assert [send(plain), send(favoured), send(favoured)] == [200, 200, 200]
        assert 400 <= send(plain) < 500 and 400 <= send(favoured) < 500


def test_a_key_lets_others_in(tmp_path: Path) -> None:
    with pytest.raises(InsecureBind, match="keys create"):
        app(tmp_path, host="0.0.0.0")
    run(tmp_path / "data", "create", "x")
    house = house_of(app(tmp_path, host="0.0.0.0"))
    with pytest.raises(Unauthorized):
        house.context.keys.identify({})
    house.close()
