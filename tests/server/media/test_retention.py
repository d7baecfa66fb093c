"""The server removes old files by itself; other tests run a whole server that stores its files on S3."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.request import Media
from server.house import House
from server.jobs.job import Status
from server.media.artifacts import Artifacts, Limits
from server.media.retention import Retention
from server.media.storage_s3 import ObjectStorage
from server.media.uploads import Uploads
from tests.rigs.house import app, ended, house_of, submit, until
from tests.rigs.s3 import Cloud

DAY = 86_400.0


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "png")
    return file.getvalue()


def age(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


# -- a server with a folder -------------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server that is not started, so that it runs no jobs."""
    made = house_of(app(tmp_path, keep_results_days=7, max_storage_mb=1))
    yield made
    made.close()


def test_inputs_that_no_job_needs(house: House) -> None:
    inputs = house.data.inputs
    paths = {word: inputs / hashlib.sha256(word.encode()).hexdigest() for word in ("mine", "his", "ended", "young")}
    for word, path in paths.items():
        path.write_text(word)
        age(path, DAY - 60 if word == "young" else DAY + 60)
    media = {word: Media(str(path), path.name) for word, path in paths.items()}
    submit(house, "a", image=media["mine"])
    submit(house, "a", video=media["his"])
    over = submit(house, "a", image=media["ended"])
    house.context.jobs.cancel(over.id)
    house.retention.sweep()
    assert {word for word, path in paths.items() if path.exists()} == {"mine", "his", "young"}
    house.store.claim()
    house.retention.sweep()
    assert paths["mine"].exists(), "a running job may have to be retried"
    with pytest.raises(Exception, match="not kept any more"):
        house.context.intake.again(media["ended"], "image")


def test_an_input_that_comes_again_is_new(house: House) -> None:
    """A client may upload the same file again. A sweep must not remove the file before the job that uses it exists."""

    async def bring_twice() -> tuple[Media, Media]:
        first = await house.context.intake.picture(picture("red"), "image")
        age(Path(first.path), 2 * DAY)
        second = await house.context.intake.picture(picture("red"), "image")
        await house.context.inspectors.close()
        return first, second

    media, again = asyncio.run(bring_twice())
    assert again == media
    house.retention.sweep()
    assert Path(media.path).exists()
    age(Path(media.path), 2 * DAY)
    assert house.context.intake.again(media, "image") == media
    house.retention.sweep()
    assert Path(media.path).exists()
    age(Path(media.path), 2 * DAY)
    house.retention.sweep()
    assert not Path(media.path).exists()


def test_unfinished_uploads(house: House) -> None:
    uploads = house.data.uploads
    for name in ("old", "going-on", "empty"):
        (uploads / name).mkdir()
    age(uploads / "empty", DAY + 60)
    for name in ("old", "going-on"):
        for part in ("1", "2"):
            (uploads / name / part).write_text("x")
            age(uploads / name / part, DAY + 60)
        age(uploads / name, DAY + 60)
    age(uploads / "going-on" / "2", DAY - 60)
    for name, seconds in (("tmpold", DAY + 60), ("tmpyoung", 60.0)):
        (uploads / name).write_text("x")
        age(uploads / name, seconds)
    house.retention.sweep()
    assert sorted(path.name for path in uploads.iterdir()) == ["going-on", "tmpyoung"]


def test_what_was_left_in_the_middle(house: House) -> None:
    """The sweep removes old temporary files and old artifact folders without a file, but no other old files."""
    root, artifacts = house.data.root, house.context.artifacts
    kept, gone = [], []
    for folder in ("inputs", "checkpoints", "checkpoints/finished", "replicate/anyone", "openai/anyone"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, list_ in ((".ab_12xyz", gone), ("-.ab_12xyz", kept), (".young_00", kept), (".keep", kept)):
            if folder == "inputs" and list_ is kept and name != ".young_00":
                continue
            list_.append(root / folder / name)
            list_[-1].write_text("x")
            age(list_[-1], 60 if name == ".young_00" else DAY + 60)
    for key, seconds, list_ in (("t" * 32, DAY + 60, gone), ("y" * 32, DAY - 60, kept), ("lost+found", 9 * DAY, kept)):
        (root / "artifacts" / key).mkdir()
        (root / "artifacts" / key / ".torn_123").write_text("x")
        list_.append(age(root / "artifacts" / key, seconds))
    film = artifacts.put("video.mp4", "video/mp4", b"film")
    age(root / "artifacts" / film.key, 2 * DAY)
    house.retention.sweep()
    assert [path for path in gone if path.exists()] == [] and [path for path in kept if not path.exists()] == []
    assert artifacts.read(film) == b"film" and (root / "jobs.db").exists()


def test_results_by_the_settings(house: House) -> None:
    artifacts, folder = house.context.artifacts, house.data.artifacts
    films = [artifacts.put("video.mp4", "video/mp4", bytes(400 * 2**10)) for _ in range(4)]
    for film, seconds in zip(films, (7 * DAY + 60, 2 * DAY, 3 * DAY, 1800), strict=True):
        age(folder / film.key / film.file_name, seconds)
    house.retention.sweep()
    assert [artifacts.find(film.key) is not None for film in films] == [False, True, False, True]


def test_one_trouble_does_not_keep_the_rest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no")

    data = house.data
    (data.inputs / ".ab_12xyz").write_text("x")
    (data.checkpoints / ".ab_12xyz").write_text("x")
    for folder in (data.inputs, data.checkpoints):
        age(folder / ".ab_12xyz", 2 * DAY)
    monkeypatch.setattr(house.context.artifacts, "sweep", broken)
    monkeypatch.setattr(house.context.uploads, "sweep", broken)
    monkeypatch.setattr(house.retention, "_inputs_in_use", broken)
    house.retention.sweep()
    assert not (data.checkpoints / ".ab_12xyz").exists()


def test_a_remix_of_what_is_not_kept_any_more(tmp_path: Path) -> None:
    application = app(tmp_path)
    with TestClient(application, base_url="http://here") as client:
        house = house_of(application)
        form = {"prompt": "steps=1", "model": "sora-2"}
        made = client.post("/v1/videos", data=form, files={"input_reference": ("a.png", picture("red"), "image/png")})
        path = f"/v1/videos/{made.json()['id']}"
        until(lambda: client.get(path).json()["status"] == "completed")
        assert client.post(f"{path}/remix", json={"prompt": "steps=1"}).status_code == 200
        (file,) = house.data.inputs.iterdir()
        until(lambda: house.store.inputs_in_use() == set())
        age(file, 2 * DAY)
        house.retention.sweep()
        answer = client.post(f"{path}/remix", json={"prompt": "steps=1"})
        assert answer.status_code == 400 and "not kept any more" in answer.json()["error"]["message"]


def test_the_server_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.app.SWEEP_EVERY", 0.01)
    monkeypatch.setattr("server.app.SWEEP_SHARE", 0.0)
    application = app(tmp_path)
    with TestClient(application):
        artifacts = house_of(application).context.artifacts
        film = artifacts.put("video.mp4", "video/mp4", b"film", keep_seconds=0.05)
        until(lambda: artifacts._storage.find(film.key) is None)


# -- a server with S3 -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(s3: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, House]]:
    application = app(tmp_path_factory.mktemp("server"), storage_url=s3.url())
    with TestClient(application, base_url="http://here") as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client, house_of(application)


Running = tuple[TestClient, House]


def test_a_film_on_s3(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, house = running
    job = ended(house, submit(house, "steps=1 bytes=5000", seed=5))
    assert job.status is Status.SUCCEEDED and job.video and job.manifest and job.poster
    assert list(house.data.artifacts.iterdir()) == []
    url = house.context.artifacts.url(job.video, "http://here")
    whole = client.get(url)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert len(whole.content) == 5000 and whole.content == house.context.artifacts.read(job.video)
    part = client.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert client.get(house.context.artifacts.url(job.manifest, "")).json() == {"seed": 5}

    async def good(*_: object) -> None:
        """Accepts any file, because the test's file is not a real video."""

    monkeypatch.setattr(house.context.inspectors, "clip", good)
    body = {"prompt": "steps=1", "video_url": url}
    asked = client.post("/queue/fal-ai/cogvideox-5b/video-to-video", json=body)
    assert asked.status_code == 200, asked.text
    again = ended(house, _job(house, asked.json()["request_id"]))
    assert again.status is Status.SUCCEEDED and again.request.video
    assert again.request.video.sha256 == hashlib.sha256(whole.content).hexdigest()

    house.context.jobs.delete(job)
    assert client.get(url).status_code == 404
    assert all(house.context.artifacts.find(one.key) is None for one in (job.video, job.poster, job.manifest))


def _job(house: House, job_id: str) -> Any:
    found = house.context.jobs.get(job_id)
    assert found is not None
    return found


def test_an_upload_on_s3(running: Running) -> None:
    client, house = running
    asked = {"file_name": "a.png", "content_type": "image/png"}
    begun = client.post("/storage/upload/initiate", json=asked).json()
    assert client.put(begun["upload_url"], content=picture("blue")).status_code == 200
    assert client.get(begun["file_url"]).content == picture("blue")
    assert list(house.data.artifacts.iterdir()) == [] == list(house.data.uploads.iterdir())
    body = {"prompt": "steps=1", "image_url": begun["file_url"]}
    answer = client.post("/queue/fal-ai/cogvideox-5b/image-to-video", json=body)
    job = ended(house, _job(house, answer.json()["request_id"]))
    assert job.request.image and job.request.image.sha256 == hashlib.sha256(picture("blue")).hexdigest()


def test_s3_goes_down_below_a_server(s3: Cloud, running: Running) -> None:
    client, house = running
    done = ended(house, submit(house, "steps=1"))
    assert done.video is not None
    url = house.context.artifacts.url(done.video, "http://here")
    job = submit(house, "steps=15 sleep=0.2")
    until(lambda: _job(house, job.id).status is Status.RUNNING)
    s3.stop()
    try:
        failed = ended(house, job)
        assert failed.status is Status.FAILED and failed.error is not None and failed.error.code == "internal"
        assert failed.error.message == "the result could not be stored: the storage for files cannot be reached"
        assert client.get(url).status_code == 503
        said = "the storage for files cannot be reached"
        for path, body in (
            ("/v1/cog-video-5b-t2v", {"prompt": "steps=1"}),
            ("/queue/fal-ai/cogvideox-5b", {"prompt": "steps=1"}),
            ("/queue/fal-ai/cogvideox-5b/image-to-video", {"prompt": "steps=1", "image_url": url}),
            ("/v1/videos", {"prompt": "steps=1"}),
            ("/api/v6/video/text2video", {"prompt": "steps=1", "model_id": "cogvideox"}),
        ):
            answer = client.post(path, json=body)
            assert said in answer.text and "Traceback" not in answer.text, answer.text
        house.retention.sweep()
        assert house.dispatcher.alive
    finally:
        s3.start()
    storage = house.context.artifacts._storage
    assert isinstance(storage, ObjectStorage)
    storage._clock = lambda: time.monotonic() + 60
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED
    assert client.get(url).status_code == 200


def test_retention_on_s3(s3: Cloud, house: House) -> None:
    """Results on S3 follow the same rules; parts of uploads and inputs stay on the local disk."""
    data = house.data
    artifacts = Artifacts(data, storage=ObjectStorage(s3.url()))
    film = artifacts.put("video.mp4", "video/mp4", b"film")
    brief = artifacts.put("video.mp4", "video/mp4", b"film", keep_seconds=3600)
    later = Retention(data, artifacts, Uploads(data, artifacts), set, Limits(keep_seconds=DAY))
    later.sweep()
    assert artifacts.find(film.key) and artifacts.find(brief.key)
    artifacts._clock = lambda: time.time() + DAY - 60
    later.sweep()
    assert [one.key for one in artifacts._storage.all()] == [film.key]
    artifacts._clock = lambda: time.time() + DAY + 60
    later.sweep()
    assert list(artifacts._storage.all()) == []
