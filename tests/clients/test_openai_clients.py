"""OpenAI's own Python client. The real server makes videos of the requested length and size; all other tests use the
fake engine."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import requests
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
    InternalServerError,
    NotFoundError,
    OpenAI,
)
from openai.types import Video, VideoModel
from PIL import Image

from pipelines.models import ModelInfo
from pipelines.video import read_video
from tests.rigs import pace
from tests.rigs.clients.running import KEY, Film, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
QUICK = "steps=2 sleep=0"
SLOW = "steps=1000 sleep=0.05"


@contextmanager
def client_of(address: str, key: str = KEY, **more: Any) -> Iterator[OpenAI]:
    http = DefaultHttpxClient(trust_env=False)  # bypasses any proxy of this machine
    with OpenAI(base_url=f"http://{address}/v1", api_key=key, http_client=http, **more) as client:
        yield client


@pytest.fixture
def real(server: str) -> Iterator[OpenAI]:
    with client_of(server) as client:
        yield client


@pytest.fixture
def played(stand_in: str) -> Iterator[OpenAI]:
    with client_of(stand_in) as client:
        yield client


def steps(number: int) -> dict[str, Any]:
    return {"num_inference_steps": number, "seed": 3}


def middle_of_first_frame(film: bytes, folder: Path) -> tuple[int, int, int]:
    (folder / "film.mp4").write_bytes(film)
    frame = read_video(folder / "film.mp4", max_frames=200, max_pixels=10**7, max_seconds=60).frames[0]
    height, width, _ = frame.shape
    middle = frame[height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3]
    red, green, blue = (int(part) for part in np.mean(middle, axis=(0, 1)))
    return red, green, blue


def test_a_program_written_for_sora(real: OpenAI, server: str, model: ModelInfo, tmp_path: Path) -> None:
    video = real.videos.create_and_poll(
        model="sora-2", prompt="a red circle", seconds="4", size="1280x720", extra_body=steps(8)
    )
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.model, video.seconds, video.size, video.prompt) == ("sora-2", "4", "1280x720", "a red circle")
    assert video.completed_at is not None and video.created_at <= video.completed_at
    film = real.videos.download_content(video.id).read()
    assert Film.read(film, tmp_path) == Film(4 * model.family.fps, model.family.fps, 1280, 720)
    assert fetch(str(video.model_extra and video.model_extra["url"])).content == film
    thumbnail = Image.open(io.BytesIO(real.videos.download_content(video.id, variant="thumbnail").read()))
    assert (thumbnail.format, thumbnail.width > thumbnail.height) == ("JPEG", True)
    sheet = Image.open(io.BytesIO(real.videos.download_content(video.id, variant="spritesheet").read()))
    assert (sheet.format, sheet.size) == ("JPEG", (4 * 320, 4 * 180))
    real.videos.delete(video.id)
    assert fetch(str(video.model_extra and video.model_extra["url"])).status_code == 404


def test_more_seconds_than_the_model_can_make(real: OpenAI, model: ModelInfo, tmp_path: Path) -> None:
    video = real.videos.create_and_poll(prompt="a blue square", seconds="8", extra_body=steps(2))
    film = real.videos.download_content(video.id).read()
    assert Film.read(film, tmp_path) == Film(8 * model.family.fps, model.family.fps, 720, 480)
    assert 8 * model.family.fps > model.family.frames.maximum


@pytest.mark.parametrize("way", ["file", "file_id"])
def test_from_a_picture(real: OpenAI, picture: Path, tmp_path: Path, way: str) -> None:
    given: dict[str, Any] = {"input_reference": picture}
    extra: dict[str, Any] = {**steps(12), "num_frames": 9, "width": 96, "height": 64}
    if way == "file_id":
        uploaded = real.files.create(file=picture, purpose="vision")
        assert (uploaded.bytes, uploaded.status) == (picture.stat().st_size, "processed")
        given, extra = {}, {**extra, "input_reference": {"file_id": uploaded.id}}
    video = real.videos.create_and_poll(prompt="a red circle", **given, extra_body=extra)
    assert video.status == "completed", video.error
    film = real.videos.download_content(video.id).read()
    assert Film.read(film, tmp_path) == Film(9, 8.0, 96, 64)
    red, green, blue = middle_of_first_frame(film, tmp_path)
    assert red > 150 and red > green + 60 and red > blue + 60, f"the image's circle is red, not {red, green, blue}"
    assert video.model.endswith("i2v")


def test_the_call_that_waits(server: str, tmp_path: Path) -> None:
    fields = {"prompt": "a green star", "seconds": "1", "fps": "12", "size": "96x64", "num_inference_steps": "2"}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"http://{server}/v1/videos/sync",
            files={name: (None, value) for name, value in fields.items()},
            headers={"authorization": f"Bearer {KEY}"},
            timeout=pace.seconds(300),
        )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert Film.read(answer.content, tmp_path) == Film(12, 12.0, 96, 64)


def test_life_of_a_video(played: OpenAI) -> None:
    video = played.videos.create(prompt="steps=40 sleep=0.05", seconds="8")
    assert video.status in ("queued", "in_progress")
    seen = [video]
    while seen[-1].status in ("queued", "in_progress"):
        seen.append(played.videos.retrieve(video.id))
    assert seen[-1].status == "completed"
    progress = [one.progress for one in seen]
    assert progress == sorted(progress) and progress[-1] == 100
    assert played.videos.download_content(video.id).read() == bytes(i % 251 for i in range(1000))


def test_list_pages_and_delete(played: OpenAI) -> None:
    for old in played.videos.list():
        played.videos.delete(old.id)
    made = [played.videos.create_and_poll(prompt=f"{QUICK} {n}", poll_interval_ms=50) for n in range(5)]
    newest = [video.id for video in played.videos.list(limit=2)]
    assert newest == [video.id for video in reversed(made)]
    assert [video.id for video in played.videos.list(limit=3, order="asc")] == newest[::-1]
    assert [video.id for video in played.videos.list(after=newest[1], limit=1).data] == [newest[2]]
    for video in played.videos.list(limit=2):
        gone = played.videos.delete(video.id)
        assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    assert list(played.videos.list()) == []
    with pytest.raises(NotFoundError):
        played.videos.retrieve(made[0].id)


def test_a_running_video_is_deleted_and_the_next_one_made(played: OpenAI) -> None:
    video = played.videos.create(prompt=SLOW)
    while played.videos.retrieve(video.id).status == "queued":
        pass
    with pytest.raises(BadRequestError) as early:
        played.videos.download_content(video.id)
    assert early.value.code == "video_not_completed"
    assert played.videos.delete(video.id).deleted
    with pytest.raises(NotFoundError):
        played.videos.download_content(video.id)
    assert played.videos.create_and_poll(prompt=QUICK).status == "completed"


def test_remix(played: OpenAI) -> None:
    first = played.videos.create_and_poll(prompt=QUICK, model="sora-2-pro", size="720x1280")
    second = played.videos.remix(first.id, prompt=f"{QUICK} again")
    assert (second.remixed_from_video_id, second.prompt) == (first.id, f"{QUICK} again")
    assert (second.size, second.seconds, second.model) == ("720x1280", "4", "sora-2-pro")
    assert played.videos.poll(second.id).status == "completed"


def test_failures(played: OpenAI) -> None:
    video = played.videos.create_and_poll(prompt="fail=out_of_memory")
    assert video.status == "failed"
    assert video.error is not None
    assert (video.error.code, video.error.message) == ("out_of_memory", "as told")
    with pytest.raises(BadRequestError, match="as told"):
        played.videos.download_content(video.id)
    with pytest.raises(BadRequestError):
        played.videos.remix(video.id, prompt="b")


def test_a_failed_sync_call_is_made_once(played: OpenAI) -> None:
    before = len(list(played.videos.list()))
    with pytest.raises(InternalServerError) as failed:
        played.post("/videos/sync", cast_to=Video, body={"prompt": "fail=internal"})
    assert failed.value.code == "internal"
    assert len(list(played.videos.list())) == before + 1


def test_refusals(stand_in: str, played: OpenAI) -> None:
    refused: list[tuple[type[APIStatusError], str | None, Any]] = [
        (BadRequestError, "prompt", lambda c: c.videos.create(prompt=" ")),
        (BadRequestError, "model", lambda c: c.videos.create(prompt="a", model="gpt-4")),
        (BadRequestError, "size", lambda c: c.videos.create(prompt="a", size="huge")),
        (BadRequestError, "seconds", lambda c: c.videos.create(prompt="a", seconds="600")),
        (BadRequestError, "input_reference", lambda c: c.videos.create(prompt="a", input_reference=b"no picture")),
        (NotFoundError, "video_id", lambda c: c.videos.retrieve("video_" + "0" * 32)),
        (NotFoundError, "video_id", lambda c: c.videos.delete("nothing")),
        (NotFoundError, "file_id", lambda c: c.files.retrieve("file-nothing")),
        (NotFoundError, "model", lambda c: c.models.retrieve("gpt-4")),
        (NotFoundError, None, lambda c: c.videos.edit(prompt="a", video=b"a clip")),
        (NotFoundError, None, lambda c: c.chat.completions.create(model="gpt-4", messages=[])),
    ]
    for kind, param, call in refused:
        with pytest.raises(kind) as e:
            call(played)
        assert (e.value.param, type(e.value.message)) == (param, str)
    for key in ("wrong", "id"):
        with client_of(stand_in, key) as stranger, pytest.raises(AuthenticationError) as unknown:
            stranger.videos.create(prompt="a")
        assert unknown.value.code == "invalid_api_key"


def test_files(played: OpenAI, picture: Path) -> None:
    with picture.open("rb") as opened:
        file = played.files.create(
            file=("circle.png", opened, "image/png"),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert (file.filename, file.purpose, file.bytes) == ("circle.png", "user_data", picture.stat().st_size)
    assert file.expires_at is not None
    assert played.files.retrieve(file.id) == file
    assert file in list(played.files.list(purpose="user_data"))
    video = played.videos.create_and_poll(prompt=QUICK, extra_body={"input_reference": {"file_id": file.id}})
    assert (video.status, video.model) == ("completed", "tiny-i2v")
    assert played.files.delete(file.id).deleted
    with pytest.raises(NotFoundError):
        played.files.retrieve(file.id)


def test_a_picture_by_address(played: OpenAI, picture_url: str) -> None:
    video = played.videos.create_and_poll(prompt=QUICK, extra_body={"input_reference": {"image_url": picture_url}})
    assert (video.status, video.model) == ("completed", "tiny-i2v")


def test_models(played: OpenAI) -> None:
    listed = {model.id for model in played.models.list()}
    assert {"tiny", "tiny-i2v", "sora-2", "sora-2-pro"} <= listed
    assert set(get_args(get_args(VideoModel)[1])) <= listed, "every model name that the client knows"
    assert played.models.retrieve("zai-org/CogVideoX-5b").id == "zai-org/CogVideoX-5b"
    assert played.models.retrieve("tiny").object == "model"
    assert played.models.retrieve("sora-2").id == "sora-2"


def test_the_other_address(stand_in: str) -> None:
    http = DefaultHttpxClient(trust_env=False)
    with OpenAI(base_url=f"http://{stand_in}/openai/v1", api_key=KEY, http_client=http) as client:
        video = client.videos.create_and_poll(prompt=QUICK)
        assert (video.status, client.videos.delete(video.id).deleted) == ("completed", True)
        assert {"tiny", "tiny-i2v"} <= {model.id for model in client.models.list()}


def test_the_async_client(stand_in: str) -> None:
    async def use() -> None:
        http = DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncOpenAI(base_url=f"http://{stand_in}/v1", api_key=KEY, http_client=http) as client:
            video = await client.videos.create_and_poll(prompt=QUICK, seconds="12")
            assert (video.status, video.seconds) == ("completed", "12")
            assert len((await client.videos.download_content(video.id)).content) == 1000
            assert video.id in [one.id async for one in client.videos.list(limit=1)]
            await client.videos.delete(video.id)

    asyncio.run(use())
