"""Runs huggingface_hub's InferenceClient against real servers, with the two video tasks that its task table lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ImageToVideoTargetSize, InferenceClient, InferenceTimeoutError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.inference._providers import PROVIDERS
from huggingface_hub.inference._providers.hf_inference import HFInferenceBinaryInputTask, HFInferenceTask
from PIL import Image

from pipelines.models import ModelInfo
from pipelines.request import Task
from pipelines.video import read_video
from server.facades.facade import Snippet
from server.facades.huggingface import FACADE
from tests.rigs.clients.running import KEY, Film, run_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

T2V, I2V = "zai-org/CogVideoX-5b", "zai-org/CogVideoX-5b-I2V"
PROMPT = "a red circle moves left"


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    known = PROVIDERS["hf-inference"]
    monkeypatch.setitem(known, "text-to-video", HFInferenceTask("text-to-video"))
    monkeypatch.setitem(known, "image-to-video", HFInferenceBinaryInputTask("image-to-video"))
    yield
    huggingface_hub.close_session()


def client_of(
    address: str, model: str, *, root: str = "/hf-inference", key: str = KEY, timeout: float = 300
) -> InferenceClient:
    return InferenceClient(base_url=f"http://{address}{root}/models/{model}", api_key=key, timeout=timeout)


@pytest.mark.parametrize("snippet", FACADE.clients, ids=lambda snippet: snippet.title)
def test_documented_programs(server: str, model: ModelInfo, tmp_path: Path, snippet: Snippet) -> None:
    run_program("program.py", snippet.filled(f"http://{server}", KEY), tmp_path)
    rules = model.family
    wanted = Film(rules.frames.default, rules.fps, *rules.sizes.default)
    assert Film.read((tmp_path / "video.mp4").read_bytes(), tmp_path) == wanted


def test_text_to_video(server: str, model: ModelInfo, tmp_path: Path) -> None:
    client = client_of(server, T2V)
    made = client.text_to_video(
        PROMPT, negative_prompt=["blurry", "dark"], num_frames=12.0, num_inference_steps=8, guidance_scale=6.0, seed=7
    )
    assert Film.read(made, tmp_path) == Film(12, model.family.fps, *model.family.sizes.default)
    again = client.text_to_video(
        PROMPT, negative_prompt=["blurry, dark"], num_frames=12.0, num_inference_steps=8, guidance_scale=6.0, seed=7
    )
    assert again == made, "the same seed makes the same video"


def test_image_to_video(server: str, models: Mapping[Task, ModelInfo], picture: Path, tmp_path: Path) -> None:
    size = ImageToVideoTargetSize(width=320, height=208)
    made = client_of(server, I2V).image_to_video(
        picture, prompt=PROMPT, num_frames=9, num_inference_steps=8, target_size=size
    )
    assert Film.read(made, tmp_path) == Film(9, models[Task.I2V].family.fps, 320, 208)
    film = tmp_path / "film.mp4"
    film.write_bytes(made)
    first = read_video(film, max_frames=9, max_pixels=10**7, max_seconds=60).frames[0]
    red, green, blue = Image.fromarray(first).getpixel((160, 104))
    assert red > 100 + max(green, blue), "the video begins with the image: a red circle in the centre"


def test_bare_pictures(stand_in: str, picture: Path, picture_url: str) -> None:
    """Without parameters, the client sends only the image's bytes, sometimes without a content type."""
    client = client_of(stand_in, I2V, root="")
    for form in (picture.read_bytes(), picture, str(picture), picture_url):
        assert len(client.image_to_video(form)) == 1000


def test_failure(stand_in: str, picture: Path) -> None:
    with pytest.raises(HfHubHTTPError) as failed:
        client_of(stand_in, T2V).text_to_video("fail=internal")
    assert failed.value.response.status_code == 500
    assert failed.value.response.json() == {"error": "prompt: as told"}
    with pytest.raises(HfHubHTTPError) as failed:
        client_of(stand_in, I2V).image_to_video(picture, prompt="fail=media_error")
    assert failed.value.response.status_code == 422


def test_refusals(stand_in: str) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        client_of(stand_in, T2V).text_to_video("a", num_inference_steps=0)
    assert refused.value.response.status_code == 422
    assert "parameters.num_inference_steps must be at least 1, got 0" in str(refused.value)
    with pytest.raises(HfHubHTTPError) as refused:
        client_of(stand_in, I2V).image_to_video(b"not a picture")
    assert refused.value.response.status_code == 422
    assert refused.value.response.json()["error"].startswith("inputs: ")
    with pytest.raises(HfHubHTTPError) as refused:
        client_of(stand_in, "zai-org/CogVLM").text_to_video("a")
    assert refused.value.response.status_code == 404
    assert "zai-org/CogVLM does not exist" in refused.value.response.json()["error"]


@pytest.mark.parametrize("key", ["another", ""])
def test_wrong_key(stand_in: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(HfHubHTTPError) as refused:
        client_of(stand_in, T2V, key=key).text_to_video("a")
    assert refused.value.response.status_code == 401
    assert refused.value.response.json()["error"].startswith("Invalid credentials")


def test_hanging_up_cancels(stand_in: str) -> None:
    """When a client disconnects, the server cancels the client's job. Without this, the only worker would be busy for
    hours."""
    with pytest.raises(InferenceTimeoutError):
        client_of(stand_in, T2V, timeout=2).text_to_video("steps=1000000 sleep=0.05")
    assert len(client_of(stand_in, T2V).text_to_video("steps=3 bytes=500")) == 500
