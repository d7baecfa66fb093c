"""Replicate's own clients, unchanged, and Hugging Face's client through Replicate's API.

Some tests make real videos with the demo model. Tests of failures, cancels, files and webhooks use the fake engine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
import replicate
from huggingface_hub import InferenceClient
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import PROVIDERS, _common
from PIL import Image
from replicate.exceptions import ModelError, ReplicateError
from replicate.pagination import paginate
from replicate.webhook import InvalidSignatureError, Webhooks

from pipelines.models import ModelInfo
from pipelines.request import Task
from pipelines.video import read_video
from tests.rigs import pace
from tests.rigs.clients.running import KEY, Film, fetch, run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

B5 = "cuuupid/cogvideox-5b"
T2V = "thudm/cogvideox-t2v"
I2V = "thudm/cogvideox-i2v"
QUICK = {"prompt": "steps=2"}
SLOW = {"prompt": "steps=3000 sleep=0.02"}
FILM = bytes(i % 251 for i in range(1000))  # the fake engine's output


def client_of(address: str, key: str = KEY) -> replicate.Client:
    return replicate.Client(api_token=key, base_url=f"http://{address}", trust_env=False)


@pytest.fixture
def real(server: str) -> Iterator[replicate.Client]:
    client = client_of(server)
    yield client
    client._client.close()


@pytest.fixture
def client(stand_in: str) -> Iterator[replicate.Client]:
    client = client_of(stand_in)
    client.poll_interval = 0.1
    yield client
    client._client.close()


def until_running(prediction: Any) -> None:
    def begun() -> bool:
        prediction.reload()
        return prediction.status != "starting"

    pace.until(begun)


# -- with the demo model ----------------------------------------------------------------------------------------------


def test_run(real: replicate.Client, tmp_path: Path) -> None:
    output = real.run(B5, input={"prompt": "a red circle moves left", "steps": 3, "guidance": 5})
    assert Film.read(output.read(), tmp_path) == Film(49, 8, 720, 480)


def test_run_with_a_picture_that_is_uploaded(
    real: replicate.Client, models: Mapping[Task, ModelInfo], picture: Path, tmp_path: Path
) -> None:
    wanted = {"prompt": "a red circle moves left", "num_inference_steps": 6, "num_frames": 10, "seed": 3}
    with picture.open("rb") as file:
        output = real.run(I2V, input={**wanted, "image": file})
    film = output.read()
    assert Film.read(film, tmp_path) == Film(10, 8, 720, 480)
    (tmp_path / "film.mp4").write_bytes(film)
    first = Image.fromarray(read_video(tmp_path / "film.mp4", max_frames=10, max_pixels=10**6, max_seconds=9).frames[0])
    red, green, blue = first.convert("RGB").getpixel((360, 240))
    assert red > green + 60 and red > blue + 60, "the image's circle is in the centre"
    listed = real.predictions.list()[0]
    assert listed.model == I2V and "/files/" in listed.input["image"]


def test_hugging_face_through_replicates_shape(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(PROVIDERS["replicate"]["text-to-video"], "base_url", f"http://{server}")
    name = "zai-org/CogVideoX-5b"
    mapping = InferenceProviderMapping(
        provider="replicate", hf_model_id=name, providerId=T2V, task="text-to-video", status="live"
    )
    monkeypatch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING["replicate"], name, mapping)
    huggingface_hub.close_session()
    client = InferenceClient(provider="replicate", api_key=KEY)
    film = client.text_to_video(
        "a red circle moves left", model=name, num_frames=12, num_inference_steps=3, guidance_scale=5, seed=7
    )
    assert Film.read(film, tmp_path) == Film(12, 8, 720, 480)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as refused:
        client.text_to_video("a", model=name, num_inference_steps=501)
    assert refused.value.response.status_code == 422
    huggingface_hub.close_session()


# -- with the fake engine ---------------------------------------------------------------------------------------------


def test_a_run_that_blocks_too_short_a_time_goes_on_by_asking(client: replicate.Client) -> None:
    assert client.run(B5, input={"prompt": "steps=20 sleep=0.1"}, wait=1).read() == FILM
    polled = client.run(B5, input={"prompt": "steps=5 sleep=0.1"}, wait=False)
    assert fetch(polled).content == FILM, "without waiting, the output is a URL, which over http stays text"
    version = client.models.get(B5).latest_version
    assert client.run(f"{B5}:{version.id}", input=QUICK).read() == FILM
    address = client.run(T2V, input=QUICK, use_file_output=False)
    assert base64.b64decode(address.removeprefix("data:video/mp4;base64,")) == FILM


ADDRESS, DATA = "text", "file"


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.25.2", {"run": ADDRESS, "created": ADDRESS}),
        ("0.34.2", {"run": ADDRESS, "created": ADDRESS, "waited": ADDRESS}),
        ("1.0.7", {"run": DATA, "created": ADDRESS, "waited": DATA}),
        ("2.0.0b4", {"run": DATA, "module": DATA, "async": DATA, "created": ADDRESS, "late": "starting"}),
    ],
)
def test_what_each_version_makes_of_the_output(
    stand_in: str, tmp_path: Path, version: str, wanted: dict[str, str]
) -> None:
    printed = run_script("replicate_run.py", tmp_path, {"SERVER": stand_in}, f"replicate=={version}")
    told = json.loads(printed.strip().splitlines()[-1])
    assert {name: kind for name, (kind, _) in told.items()} == wanted
    for kind, value in told.values():
        if kind == DATA:
            assert value == len(FILM)
        elif kind == ADDRESS:
            assert fetch(value).content == FILM
        else:
            assert value == "data:", "a call whose wait was too short gets the same output later"


def test_async_run(stand_in: str) -> None:
    async def main() -> bytes:
        client = client_of(stand_in)
        output = await client.async_run(B5, input=QUICK)
        film: bytes = await output.aread()
        await client._async_client.aclose()
        return film

    assert asyncio.run(main()) == FILM


def test_predictions(client: replicate.Client) -> None:
    model = client.models.get(T2V)
    made = [
        client.predictions.create(model=T2V, input=QUICK),
        client.predictions.create(version=model.latest_version, input=QUICK),
        client.predictions.create(model.latest_version.id, QUICK),
        client.predictions.create(version=f"{T2V}:{model.latest_version.id}", input=QUICK),
        client.predictions.create(deployment="acme/films", input={**QUICK, "num_frames": 9}),
        client.deployments.get(T2V).predictions.create(input=QUICK, wait=True),
        client.models.predictions.create(model, QUICK, wait=5),
    ]
    for prediction in made:
        prediction.wait()
        assert (prediction.status, prediction.error, prediction.model) == ("succeeded", None, T2V)
        assert prediction.version == model.latest_version.id
        assert prediction.input["prompt"] == QUICK["prompt"]
        assert prediction.progress.current == prediction.progress.total == 2
        assert prediction.metrics["total_time"] >= prediction.metrics["predict_time"] > 0
        assert prediction.created_at <= prediction.started_at <= prediction.completed_at
        assert client.predictions.get(prediction.id).output == prediction.output
    pages = list(paginate(client.predictions.list))
    listed = [one.id for page in pages for one in page]
    assert listed[: len(made)] == [one.id for one in reversed(made)]
    address = next(one.output for one in pages[0] if one.status == "succeeded")
    assert fetch(address).content == FILM, "lists contain URLs"


def test_progress_and_cancel(client: replicate.Client) -> None:
    prediction = client.predictions.create(model=B5, input=SLOW)
    assert prediction.status == "starting"
    until_running(prediction)
    while prediction.progress is None or prediction.progress.current < 3:
        prediction.reload()
    assert prediction.progress.total == 3000 and prediction.progress.percentage < 1
    assert "Using seed: 42" in prediction.logs
    prediction.cancel()
    assert prediction.status == "canceled"
    prediction.reload()
    assert (prediction.status, prediction.output) == ("canceled", None)
    assert client.predictions.cancel(prediction.id).status == "canceled"


def test_deadline(stand_in: str) -> None:
    client = replicate.Client(
        api_token=KEY, base_url=f"http://{stand_in}", trust_env=False, headers={"Cancel-After": "5s"}
    )
    prediction = client.predictions.create(model=B5, input=SLOW)
    prediction.wait()
    assert prediction.status == "canceled"
    client._client.close()


def test_failures(client: replicate.Client, stand_in: str) -> None:
    for given in ({}, {"wait": False}):
        with pytest.raises(ModelError) as failed:
            client.run(B5, input={"prompt": "fail=internal at=1"}, **given)
        assert failed.value.prediction.status == "failed"
        assert str(failed.value) == failed.value.prediction.error and "as told" in str(failed.value)
    for work, status, text in (
        (lambda: client.run(B5, input={"prompt": "a", "steps": 121}), 422, "input.steps"),
        (lambda: client.run(I2V, input={"prompt": "a"}), 422, "image is required"),
        (lambda: client.run("someone/else", input=QUICK), 404, "someone/else"),
        (lambda: client.predictions.create(version="0" * 64, input=QUICK), 422, "specified version does not exist"),
        (lambda: client.predictions.get("a" * 26), 404, "a" * 26),
        (lambda: client.predictions.cancel("a" * 26), 404, "a" * 26),
        (lambda: client.models.get("someone/else"), 404, "someone/else"),
        (lambda: client.files.get("nothing"), 404, "nothing"),
    ):
        with pytest.raises(ReplicateError) as refused:
            work()
        assert refused.value.status == status and text in refused.value.detail
    wrong = client_of(stand_in, "wrong")
    for work in (lambda: wrong.run(B5, input=QUICK), wrong.webhooks.default.secret, wrong.predictions.list):
        with pytest.raises(ReplicateError) as refused:
            work()
        assert (refused.value.status, refused.value.title) == (401, "Unauthenticated")
    wrong._client.close()


def test_models(client: replicate.Client) -> None:
    assert {f"{one.owner}/{one.name}" for one in client.models.list()} >= {B5, T2V, I2V}
    for name in (B5, "christophy/cogvideox", T2V, I2V):
        model = client.models.get(name)
        assert f"{model.owner}/{model.name}" == name
        assert [one.id for one in model.versions.list()] == [model.latest_version.id]
        version = model.versions.get(model.latest_version.id)
        schemas = version.openapi_schema["components"]["schemas"]
        assert schemas["Output"]["format"] == "uri" and "prompt" in schemas["Input"]["required"]


def test_files(client: replicate.Client, stand_in: str, picture: Path) -> None:
    with picture.open("rb") as handle:
        file = client.files.create(handle, metadata={"by": "me"})
    assert (file.name, file.content_type, file.size) == ("circle.png", "image/png", picture.stat().st_size)
    assert file.metadata == {"by": "me"}
    assert client.files.get(file.id) == file
    assert fetch(file.urls["get"]).content == picture.read_bytes()
    second = client.files.create(picture)
    prefixed = client_of(f"{stand_in}/replicate")
    for one in (client, prefixed):
        assert [listed.id for listed in one.files.list()][:2] == [second.id, file.id]
    prefixed._client.close()
    for image in (
        file.urls["get"],
        picture,
        "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode(),
    ):
        prediction = client.predictions.create(model=I2V, input={**QUICK, "image": image})
        prediction.wait()
        assert prediction.status == "succeeded"
    with picture.open("rb") as handle:
        wanted = {**QUICK, "image": handle}
        assert client.run(I2V, input=wanted, file_encoding_strategy="base64").read() == FILM
    assert client.files.delete(file.id) is True
    with pytest.raises(ReplicateError):
        client.files.get(file.id)
    assert fetch(file.urls["get"]).status_code == 404


class Ear(ThreadingHTTPServer):
    """Records webhook calls without parsing their bodies."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], str]] = []
        super().__init__(("127.0.0.1", 0), Listener)
        Thread(target=self.serve_forever, daemon=True).start()


class Listener(BaseHTTPRequestHandler):
    server: Ear

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.heard.append((dict(self.headers.items()), body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_webhooks(client: replicate.Client) -> None:
    with Ear() as ear:
        hook = f"http://127.0.0.1:{ear.server_port}/hook"
        client.run(B5, input={"prompt": "steps=5 sleep=0.1"}, webhook=hook)
        pace.until(lambda: ear.heard and json.loads(ear.heard[-1][1])["status"] == "succeeded")
        ear.shutdown()
    secret = client.webhooks.default.secret()
    for headers, body in ear.heard:
        Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=60)
        with pytest.raises(InvalidSignatureError):
            Webhooks.validate(headers=headers, body=body.replace("steps", "STEPS"), secret=secret)
    told = [json.loads(body) for _, body in ear.heard]
    assert [one["status"] for one in told[:-1]] == ["processing"] * (len(told) - 1)
    assert told[0]["output"] is None and told[-2]["output"] == told[-1]["output"], "start, logs…, output, completed"
    assert fetch(told[-1]["output"]).content == FILM
    assert len(told) >= 4 and told[-1]["metrics"]["predict_time"] > 0


def test_streams(client: replicate.Client) -> None:
    events = list(client.stream(B5, input={"prompt": "steps=3 sleep=0.1"}))
    kinds = [event.event.value for event in events]
    assert kinds[0] == "logs" and kinds[-2:] == ["output", "done"]
    assert fetch(str(events[-2])).content == FILM


def test_the_rest(client: replicate.Client) -> None:
    assert client.accounts.current().username
    assert [one.sku for one in client.hardware.list()] == ["local"]
    assert len(client.collections.get(client.collections.list()[0].slug).models) == 4
    assert len(client.deployments.list()) == 4
    assert len(client.trainings.list()) == 0


def test_javascript(server: str, stand_in: str, picture: Path, tmp_path: Path) -> None:
    shutil.copy(picture, tmp_path / "circle.png")
    printed = run_script("replicate_everything.mjs", tmp_path, {"SERVER": server, "STAND_IN": stand_in})
    told = json.loads(printed.strip().splitlines()[-1])
    assert Film.read(base64.b64decode(told["film"]), tmp_path) == Film(49, 8, 720, 480)
    assert told["later"] == len(FILM)
    assert told["seen"][0][0] == "starting" and told["seen"][-1] == ["succeeded", _all(15)]
    assert len(set(told["versions"])) == 1
    assert told["polled"] == ["starting", "succeeded", "succeeded", f"http://{stand_in}"[:20]]
    assert told["deployed"] == ["succeeded", "acme/films", B5]
    assert fetch(told["address"]).content == FILM
    assert told["cancelled"] == "canceled"
    assert "Prediction failed" in told["failed"]["message"] and "as told" in told["failed"]["message"]
    assert (told["refused"]["status"], told["wrongKey"]["status"], told["unknown"]["status"]) == (422, 401, 404)
    assert "input.steps" in told["refused"]["message"]
    assert told["file"]["metadata"] == {"by": "me"} and told["file"]["same"] and told["fetched"]
    assert told["removed"] is True and told["gone"]["status"] == 404
    assert told["pictured"][0] == "succeeded" and f"http://{stand_in}/files/" in told["pictured"][1]
    assert told["hooks"] == [["processing", True, False], ["succeeded", True, False]]
    assert told["events"][0] == "logs" and told["events"][-2:] == ["output", "done"]
    assert sum(told["listed"]) > 5 and told["collection"] == 4 and told["hardware"] == 1 and told["account"]


def _all(steps: int) -> dict[str, float]:
    return {"percentage": 1, "current": steps, "total": steps}
