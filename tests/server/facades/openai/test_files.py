"""OpenAI's files and spritesheets, stored in a real folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from server.facades.openai import files
from server.facades.openai.models import PURPOSES
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.job_table import hold
from tests.rigs.videos import save

MINE, YOURS = ({"authorization": f"Bearer {key}"} for key in ("mine", "yours"))


@pytest.fixture
def served(build: Build) -> Rig:
    rig = build(keys="mine,yours")
    rig.client.headers.update(MINE)
    return rig


def upload(client: TestClient, data: bytes = b"picture", **fields: Any) -> dict[str, Any]:
    form = {"purpose": "vision", **fields}
    answer = client.post("/v1/files", data=form, files={"file": ("a red.png", data, "image/png")})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_file_comes_and_goes(served: Rig) -> None:
    client = served.client
    file = upload(client)
    golden.check("openai/file", file, times=("created_at",), replace={file["id"]: "<file>"})
    path = f"/v1/files/{file['id']}"
    assert client.get(path).json() == file
    assert client.get(f"/openai{path}").json() == file
    deleted = client.delete(path)
    golden.check("openai/file_deleted", deleted, replace={file["id"]: "<file>"})
    unknown = client.get(path)
    golden.check("openai/error_unknown_file", unknown, replace={file["id"]: "<file>"})
    assert client.delete(path).status_code == 404


@pytest.mark.parametrize("purpose", PURPOSES)
def test_its_purpose_is_remembered(served: Rig, purpose: str) -> None:
    file = upload(served.client, purpose=purpose)
    assert served.client.get(f"/v1/files/{file['id']}").json()["purpose"] == purpose


def test_it_may_be_kept_for_a_time(served: Rig) -> None:
    client = served.client
    file = upload(client, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert 3590 <= file["expires_at"] - file["created_at"] <= 3610
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert upload(client)["expires_at"] is None


@pytest.mark.parametrize("form", ["bracketed", "json", "text", "image_reference"])
def test_a_video_from_a_file(served: Rig, form: str) -> None:
    client, table, intake = served.client, served.table, served.intake
    file_id = upload(client, b"the very bytes")["id"]
    sent: dict[str, dict[str, Any]] = {
        "bracketed": {"files": {"prompt": (None, "a"), "input_reference[file_id]": (None, file_id)}},
        "json": {"json": {"prompt": "a", "input_reference": {"file_id": file_id}}},
        "text": {"data": {"prompt": "a", "input_reference": f'{{"file_id": "{file_id}"}}'}},
        "image_reference": {"json": {"prompt": "a", "image_reference": {"file_id": file_id}}},
    }
    table.end = hold
    assert client.post("/v1/videos", **sent[form]).status_code == 200
    assert [value for _, value in intake.seen] == [b"the very bytes"]
    assert table.last.request.image is not None


def test_others_have_no_part_in_it(served: Rig) -> None:
    client, table = served.client, served.table
    file_id = upload(client)["id"]
    path = f"/v1/files/{file_id}"
    assert client.get(path, headers=YOURS).status_code == 404
    assert client.delete(path, headers=YOURS).status_code == 404
    body = {"prompt": "a", "input_reference": {"file_id": file_id}}
    assert client.post("/v1/videos", json=body, headers=YOURS).status_code == 404
    assert not table.jobs
    assert client.get(path).status_code == 200


def test_no_id_can_be_made_of_a_key_that_is_known(served: Rig) -> None:
    """Everybody who has the URL of a result knows its storage key, so that key must not serve as a file id."""
    client, context = served.client, served.context
    upload(client)
    result = context.artifacts.put("film.mp4", "video/mp4", b"film")
    for made_up in (f"file-{result.key}", result.key, f"file-..%2F{result.key}", "file-" + "." * 32):
        assert client.delete(f"/v1/files/{made_up}").status_code == 404
    assert context.artifacts.read(result) == b"film"


def test_list(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, context = served.client, served.context
    golden.check("openai/files_empty", client.get("/v1/files"))
    ids = []
    for n, purpose in enumerate(("vision", "user_data", "vision")):
        monkeypatch.setattr("server.facades.openai.files.time.time", lambda n=n: 1000.0 + n)
        ids.append(upload(client, purpose=purpose)["id"])

    def listed(query: str, **more: Any) -> list[str]:
        return [file["id"] for file in client.get(f"/v1/files?{query}", **more).json()["data"]]

    assert listed("") == ids[::-1]
    assert listed("order=asc") == ids
    assert listed("purpose=vision") == [ids[2], ids[0]]
    assert listed(f"limit=1&after={ids[2]}") == [ids[1]]
    assert client.get("/v1/files?limit=2").json()["has_more"] is True
    assert client.get("/v1/files?limit=3").json()["has_more"] is False
    assert listed("", headers=YOURS) == []
    for query in ("limit=0", "limit=10001", "order=up", "after=file-x"):
        answer = client.get(f"/v1/files?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])
    found = context.artifacts.find(ids[0].removeprefix("file-"))
    assert found is not None
    context.artifacts.remove(found)  # an expired file disappears in the same way
    assert listed("") == [ids[2], ids[1]]
    assert client.get(f"/v1/files/{ids[0]}").status_code == 404


@pytest.mark.parametrize(
    ("sent", "param", "code"),
    [
        ({"data": {"purpose": "vision"}}, "file", "missing_required_parameter"),
        ({"files": {"file": ("a.png", b"x")}}, "purpose", "missing_required_parameter"),
        ({"files": {"file": ("a.png", b"x"), "purpose": (None, "fun")}}, "purpose", "invalid_value"),
        ({"files": {"file": (None, "x"), "purpose": (None, "vision")}}, "file", "invalid_type"),
        ({"json": {"file": "x", "purpose": "vision"}}, "file", "invalid_type"),
        (
            {"data": {"purpose": "vision", "expires_after[seconds]": "1"}, "files": {"file": ("a.png", b"x")}},
            "expires_after[seconds]",
            "integer_below_min_value",
        ),
        (
            {"data": {"purpose": "vision", "expires_after[anchor]": "x"}, "files": {"file": ("a.png", b"x")}},
            "expires_after[anchor]",
            "invalid_value",
        ),
    ],
)
def test_refused_uploads(served: Rig, sent: dict[str, Any], param: str, code: str) -> None:
    answer = served.client.post("/v1/files", **sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert param in error["message"]


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def film(served: Rig, tmp_path: Path, frames: int) -> str:
    """Creates a finished video that begins red and ends white; returns its URL path."""
    pictures = np.zeros((frames, 48, 64, 3), np.uint8)
    for n in range(frames):
        pictures[n] = COLOURS[n * len(COLOURS) // frames]
    served.table.film = save(tmp_path / "film.mp4", pictures).read_bytes()
    return "/v1/videos/" + str(
        served.client.post("/v1/videos", json={"prompt": "a", "num_frames": frames}).json()["id"]
    )


@pytest.mark.parametrize(("frames", "columns", "rows"), [(49, 4, 4), (16, 4, 4), (5, 4, 2), (3, 3, 1), (1, 1, 1)])
def test_spritesheet(served: Rig, tmp_path: Path, frames: int, columns: int, rows: int) -> None:
    path = film(served, tmp_path, frames)
    answer = served.client.get(f"{path}/content?variant=spritesheet")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    sheet = Image.open(io.BytesIO(answer.content))
    assert (sheet.format, sheet.size) == ("JPEG", (64 * columns, 48 * rows))
    tiles = min(frames, 16)
    for tile, frame in ((0, 0), (tiles - 1, frames - 1)):
        seen = sheet.getpixel((tile % columns * 64 + 32, tile // columns * 48 + 24))
        wanted = COLOURS[frame * len(COLOURS) // frames]
        assert np.abs(np.subtract(seen, wanted)).max() < 40, f"tile {tile} is {seen}, not {wanted}"


def test_a_film_that_is_torn_or_gone(served: Rig) -> None:
    client, table = served.client, served.table
    table.film = b"torn"
    path = f"/v1/videos/{client.post('/v1/videos', json={'prompt': 'a', 'num_frames': 3}).json()['id']}"
    answer = client.get(f"{path}/content?variant=spritesheet")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert answer.headers["x-should-retry"] == "false"
    for file in (table.last.video, table.last.poster):
        assert file is not None
        served.context.artifacts.remove(file)
    for variant in ("video", "spritesheet", "thumbnail"):
        answer = client.get(f"{path}/content?variant={variant}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_lists_of_one_key_take_turns(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, context = served.client, served.context
    monkeypatch.setattr(files, "PAGE_WAIT", 0.01)
    with context.jobs.pages.held(owner := context.keys.identify({"authorization": "Bearer mine"})):
        assert client.get("/v1/files").status_code == 200
        with context.jobs.pages.held(owner):
            assert client.get("/v1/files").status_code == 429
            assert client.get("/v1/files", headers={"authorization": "Bearer yours"}).status_code == 200
    assert client.get("/v1/files").status_code == 200
