"""Runs ModelsLab's own clients, modelslab_py and modelslab, and its published programs against real servers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelslab_py.core.apis.base as sdk_base
import numpy as np
import pytest
import requests
from modelslab import ModelsLab
from modelslab_py.core.apis.video import Video
from modelslab_py.core.client import Client
from modelslab_py.schemas.video import Image2Video, Image2VideoUltra, Text2Video, Text2VideoUltra
from modelslab_py.utils.image_utils import image_to_base64
from PIL import Image, ImageDraw

from tests.rigs import pace
from tests.rigs.clients.running import KEY, Film, fetch
from tests.rigs.ear import Ear

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = "a red circle moves left"


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


def video_of(server: str, key: str = KEY, enterprise: bool = False) -> Video:
    client = Client(api_key=key, fetch_retry=100, fetch_timeout=1)
    client.base_url = f"http://{server}/api/"
    return Video(client=client, enterprise=enterprise)


def answer_of(video: Video, answer: dict[str, Any]) -> dict[str, Any]:
    """Waits for a job as the SDK's own example does; returns the final response."""
    if answer["status"] == "processing":
        answer = video.fetch(str(answer["id"]))
    assert answer["status"] == "success", answer
    return answer


def film_at(url: str, folder: Path) -> Film:
    """The video at `url`, which must be readable without a key."""
    got = fetch(url)
    assert (got.status_code, got.headers["content-type"]) == (200, "video/mp4")
    return Film.read(got.content, folder)


def gif_at(url: str) -> list[Image.Image]:
    """The frames of the GIF at `url`."""
    got = fetch(url)
    assert (got.status_code, got.headers["content-type"]) == (200, "image/gif")
    pictures = []
    with Image.open(io.BytesIO(got.content)) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            assert image.info["duration"] in (120, 130), "eight frames a second"
            pictures.append(image.convert("RGB"))
    return pictures


def redness(picture: Image.Image) -> Any:
    """Returns, for each pixel, the red level minus the larger of the green and blue levels, but at least 0."""
    pixels = np.asarray(picture, dtype=float)
    return np.maximum(0, pixels[..., 0] - pixels[..., 1:].max(axis=-1))


# -- real videos, with the demo model


def test_modelslab_py_text(server: str, tmp_path: Path) -> None:
    """The request has the SDK's defaults, but fewer steps. By default the SDK asks for 30 frames; the maximum is 25."""
    video = video_of(server)
    wanted = Text2Video(model_id="cogvideox", prompt=PROMPT, num_inference_steps=12, output_type="mp4", seed=3)
    answer = answer_of(video, video.text_to_video(wanted))
    assert film_at(answer["output"][0], tmp_path) == Film(25, 8, 512, 512)
    assert answer["output"][0].startswith(f"http://{server}/generations/")
    assert (answer["meta"]["seed"], answer["meta"]["num_frames"]) == (3, 25)
    assert any("num_frames: 30 -> 25" in note for note in answer["notes"])
    assert KEY not in json.dumps(answer)


def test_modelslab_text_is_a_gif_of_a_red_circle(server: str) -> None:
    """modelslab 0.2 sends every argument, including unused ones, and requests a GIF."""
    video = ModelsLab().ai_video
    video.base_url = f"http://{server}/api/v6/video"
    unused = dict.fromkeys(("upscale_strength", "upscale_guidance_scale", "upscale_num_inference_steps"))
    wanted = {"height": 256, "width": 384, "num_frames": 17, "num_inference_steps": 12, "guidance_scale": 7}
    wanted |= {"upscale_height": 320, "upscale_width": 480, "output_type": "gif", "negative_prompt": "low quality"}
    answer = json.loads(video.text2video(KEY, "cogvideox", PROMPT, **wanted, **unused))
    while answer["status"] == "processing":
        time.sleep(1)
        answer = json.loads(video.fetch_queued(KEY, answer["id"]))
    pictures = gif_at(answer["output"][0])
    assert len(pictures) == 17
    assert pictures[0].size == (480, 320)
    for picture in (pictures[0], pictures[-1]):  # the demo model may misplace the circle
        assert redness(picture).max() > 60, "the frame contains red"

    from_gif = {"init_image": answer["output"][0], "num_frames": 9, "num_inference_steps": 2, "width": 96, "height": 64}
    begun = requests.post(
        f"http://{server}/api/v6/video/img2video", json={"key": KEY, "model_id": "cogvideox", **from_gif}
    ).json()
    assert begun["status"] == "success", "one of our own videos is accepted as the initial image"


def test_modelslab_py_image(server: str, picture_url: str, tmp_path: Path) -> None:
    video = video_of(server, enterprise=True)
    fields = {"model_id": "cogvideox", "prompt": "a red circle", "num_inference_steps": 4, "num_frames": 11}
    answer = answer_of(video, video.image_to_video(Image2Video(**fields, init_image=picture_url)))
    assert film_at(answer["output"][0], tmp_path) == Film(11, 8, 512, 512)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_film_begins_with_its_picture(server: str, side: str) -> None:
    """If the image has a red circle on one side, the first frame has the circle on the same side."""
    picture = Image.new("RGB", (720, 480), "grey")
    middle = {"left": 180, "right": 540}[side]
    ImageDraw.Draw(picture).ellipse((middle - 100, 140, middle + 100, 340), fill="red")
    video = video_of(server)
    wanted = Image2Video(
        model_id="cogvideox",
        prompt="a red circle",
        init_image=image_to_base64(picture),
        num_inference_steps=12,
        num_frames=9,
        width=360,
        height=240,
        output_type="gif",
    )
    first = gif_at(answer_of(video, video.image_to_video(wanted))["output"][0])[0]
    assert first.size == (360, 240)
    red = redness(first)
    assert red.max() > 60, "the frame contains red"
    assert abs((red.sum(axis=0) * np.arange(360)).sum() / red.sum() - middle / 2) < 70


def test_modelslab_image_without_a_prompt(server: str, picture: Path, tmp_path: Path) -> None:
    """modelslab 0.2 sends no prompt with an image, and the image may be base64."""
    video = ModelsLab().ai_video
    video.base_url = f"http://{server}/api/v6/video"
    with Image.open(picture) as image:
        encoded = image_to_base64(image)
    text = video.img2video(KEY, "svd", encoded, 128, 192, 9, 4, 1, 3, 127, 0.02, base64=True)
    answer = json.loads(text)
    while answer["status"] == "processing":
        time.sleep(1)
        answer = json.loads(video.fetch_queued(KEY, answer["id"]))
    assert film_at(answer["output"][0], tmp_path) == Film(9, 8, 192, 128)
    assert answer["meta"]["prompt"] == ""


def test_the_published_program(server: str, tmp_path: Path) -> None:
    """The program on the model's page sends numbers as text, then polls the URL in `future_links`."""
    parameters = {
        "prompt": PROMPT,
        "output_type": "mp4",
        "model_id": "cogvideox",
        "negative_prompt": "blurry, low quality",
        "num_frames": "16",
        "num_inference_steps": "4",
        "guidance_scale": "7.5",
        "clip_skip": "2",
        "upscale_height": "640",
        "upscale_width": "640",
        "upscale_strength": "0.7",
        "upscale_guidance_scale": "6.5",
        "upscale_num_inference_steps": "40",
        "use_improved_sampling": True,
        "improved_sampling_seed": "42",
        "fps": "16",
        "key": KEY,
        "instant_response": "yes",
    }
    answer = requests.post(f"http://{server}/api/v6/video/text2video", data=json.dumps(parameters)).json()
    assert answer["status"] == "processing"
    url = answer["future_links"][0]
    while fetch(url).status_code == 404:
        time.sleep(0.5)
    assert film_at(url, tmp_path) == Film(16, 16, 640, 640)


# -- with the fake engine


@pytest.fixture
def quick(stand_in: str) -> Video:
    return video_of(stand_in)


def test_fetch_waits_until_there_is_a_film(quick: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        real_sleep(0.2)

    real_sleep = time.sleep
    monkeypatch.setattr(sdk_base.time, "sleep", nap)
    wanted = Text2Video(model_id="cogvideox", prompt="steps=5 sleep=0.2", instant_response=True)
    begun = quick.text_to_video(wanted)
    assert begun["status"] == "processing"
    done = quick.fetch(str(begun["id"]))
    assert done["output"] == begun["future_links"]
    assert naps, "the SDK polled more than once"


def test_async(stand_in: str) -> None:
    async def main() -> dict[str, Any]:
        client = Client(api_key=KEY, fetch_retry=100, fetch_timeout=1)
        client.base_url = f"http://{stand_in}/api/"
        async with client:
            video = Video(client=client)
            begun = await video.async_text_to_video(
                Text2Video(model_id="cogvideox", prompt="steps=5 sleep=0.1", instant_response=True)
            )
            answer: dict[str, Any] = await video.async_fetch(str(begun["id"]))
            return answer

    answer = asyncio.run(main())
    assert (answer["status"], len(answer["output"])) == ("success", 1)


@pytest.mark.parametrize("enterprise", [False, True])
def test_ultra(stand_in: str, picture_url: str, enterprise: bool) -> None:
    video = video_of(stand_in, enterprise=enterprise)
    answer = answer_of(video, video.text_to_video_ultra(Text2VideoUltra(prompt="steps=1")))
    assert answer["meta"]["resolution"] == 480
    answer = answer_of(video, video.image_to_video_ultra(Image2VideoUltra(prompt="steps=1", init_image=picture_url)))
    assert (answer["meta"]["num_frames"], answer["meta"]["resolution"]) == (92, 320)
    assert fetch(answer["output"][0]).status_code == 200


def test_failure(quick: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the SDK keeps polling until its retries are used up, then returns the failure."""
    monkeypatch.setattr(quick.client, "fetch_retry", 2)
    monkeypatch.setattr(quick.client, "fetch_timeout", 0)
    begun = quick.text_to_video(Text2Video(model_id="cogvideox", prompt="fail=internal"))
    assert (begun["status"], begun["output"]) == ("error", [])
    again = quick.fetch(str(begun["id"]))
    assert again == begun
    assert again["message"]


@pytest.mark.parametrize(
    "ask", [lambda v: v.fetch("1"), lambda v: v.text_to_video(Text2Video(model_id="x", prompt="a"))]
)
def test_wrong_key(stand_in: str, ask: Callable[[Video], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    video = video_of(stand_in, key="nonsense")
    monkeypatch.setattr(video.client, "fetch_retry", 1)
    monkeypatch.setattr(video.client, "fetch_timeout", 0)
    answer = ask(video)
    assert (answer["status"], answer["message"]) == ("error", "Invalid API key")


def test_unknown_id(quick: Video, stand_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick.client, "fetch_retry", 1)
    monkeypatch.setattr(quick.client, "fetch_timeout", 0)
    answer = quick.fetch("999999")
    assert (answer["status"], answer["message"]) == ("failed", "Request not found")
    old = ModelsLab().ai_video
    old.base_url = f"http://{stand_in}/api/v6/video"
    assert json.loads(old.fetch_queued(KEY, "999999"))["status"] == "failed"


def test_what_is_not_served(stand_in: str) -> None:
    """If a program calls an endpoint that this server does not have, the SDK raises its own exception."""
    with pytest.raises(Exception, match=r"404.*Not found"):
        video_of(stand_in, enterprise=True).restart()


def test_refused(quick: Video) -> None:
    answer = quick.text_to_video(Text2Video(model_id="nothing", prompt="a", width=4))
    assert answer["status"] == "error"
    assert "Model not found: nothing" in answer["message"]
    assert "width must be between 16 and 512, got 4" in answer["message"]


def test_bearer(stand_in: str) -> None:
    """The JavaScript SDK sends the key in an Authorization header."""
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model_id": "cogvideox", "prompt": "steps=1"}
    answer = requests.post(f"http://{stand_in}/api/v6/video/text2video", json=body, headers=headers).json()
    assert answer["status"] == "success"


def test_upload(stand_in: str, picture: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    for path, name in (("base64_to_url", "base64_string"), ("video/base64_to_url", "init_obj")):
        answer = requests.post(f"http://{stand_in}/api/v6/{path}", json={"key": KEY, name: uri}).json()
        assert answer["status"] == "success"
        assert answer["output"] == [answer["link"]]
        assert fetch(answer["link"]).content == picture.read_bytes()
        video = video_of(stand_in)
        wanted = Image2Video(model_id="svd", prompt="steps=1", init_image=answer["link"])
        assert answer_of(video, video.image_to_video(wanted))["output"]


@pytest.mark.parametrize(("prompt", "state"), [("steps=1", "success"), ("fail=internal", "failed")])
def test_webhook(quick: Video, ear: Ear, prompt: str, state: str) -> None:
    told = quick.text_to_video(Text2Video(model_id="cogvideox", prompt=prompt, webhook=ear.url, track_id="t-1"))
    pace.until(lambda: ear.heard)
    _, body = ear.heard[0]
    assert (body["status"], body["id"], body["track_id"]) == (state, told["id"], "t-1")
    assert body.get("output", []) == told["output"]


def test_a_long_job_is_answered_before_the_async_sdk_gives_up(stand_in: str) -> None:
    """The SDK's `fetch_timeout`, 60 s by default, limits the time of a call."""
    body = {"model_id": "cogvideox", "prompt": "steps=23 sleep=1", "key": KEY}
    answer = requests.post(f"http://{stand_in}/api/v6/video/text2video", json=body, timeout=50).json()
    assert answer["status"] == "processing"
    assert answer["future_links"]
