"""fal's own clients run unchanged in separate processes. They make real videos with the demo model; with the fake
engine, every call of the JavaScript client is tested. `test_fal_python.py` covers the Python client's calls."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.models import ModelInfo
from pipelines.request import Task
from tests.rigs.clients.fal_client import ID, check_output, heard
from tests.rigs.clients.running import Film, fetch, run_script
from tests.rigs.ear import Ear

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIZE = (720, 480)  # the size of videos whose request gives no size


def last_line(printed: str) -> Any:
    return json.loads(printed.strip().splitlines()[-1])


def fetched(url: str, folder: Path) -> Film:
    """The video at `url`, which must be readable without a key."""
    answer = fetch(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    return Film.read(answer.content, folder)


def promised(model: ModelInfo, *, rife: bool = True) -> Film:
    """fal's default output has 16 fps. With `use_rife`, it has twice the model's frames."""
    frames = model.family.frames.default
    return Film(2 * frames if rife else frames, 16, *SIZE)


def test_python(server: str, model: ModelInfo, tmp_path: Path) -> None:
    printed = run_script("fal_subscribe.py", tmp_path, {"SERVER": server})
    result = last_line(printed)
    assert set(result) == {"video", "timings", "seed", "prompt"}
    assert result["video"]["file_size"] == len(fetch(result["video"]["url"]).content)
    assert fetched(result["video"]["url"], tmp_path) == promised(model)
    assert len(printed.strip().splitlines()) > 1, "logs were requested"


def test_python_async(server: str, model: ModelInfo, tmp_path: Path) -> None:
    told = last_line(run_script("fal_async.py", tmp_path, {"SERVER": server}))
    assert told["words"][-1] == "Completed"
    assert fetched(told["result"]["video"]["url"], tmp_path) == promised(model, rife=False)
    assert told["result"]["seed"] == told["ran"]["seed"] == 7
    assert fetched(told["ran"]["video"]["url"], tmp_path) == promised(model, rife=False)
    remade = fetched(told["remade"]["video"]["url"], tmp_path)  # the input is one of our own videos, passed by URL
    assert (remade.width, remade.height, remade.fps) == (*SIZE, 16)
    assert remade.frames > 1
    assert told["cancelled"] == 499
    assert told["refused"][0]["loc"] == ["body", "num_inference_steps"]


def test_javascript(server: str, model: ModelInfo, tmp_path: Path) -> None:
    printed = run_script("fal_subscribe.mjs", tmp_path, {"SERVER": server})
    result = last_line(printed)
    assert result["requestId"]
    assert fetched(result["data"]["video"]["url"], tmp_path) == promised(model)
    assert len(printed.strip().splitlines()) > 1, "logs were requested"


def test_javascript_calls(server: str, models: Mapping[Task, ModelInfo], picture: Path, tmp_path: Path) -> None:
    data = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    told = last_line(run_script("fal_calls.mjs", tmp_path, {"SERVER": server, "PICTURE": data}))
    assert told["ran"]["requestId"]
    made = ((told["ran"]["data"], Task.T2V), (told["streamed"], Task.T2V), (told["pictured"], Task.I2V))
    for output, task in made:
        assert output["seed"] == 7
        assert fetched(output["video"]["url"], tmp_path) == promised(models[task])
    assert told["words"][-1] == "COMPLETED"
    assert told["cancelled"] == 499
    assert told["refused"]["known"] is True
    assert told["refused"]["fields"][0]["type"] == "less_than_equal"


@pytest.mark.parametrize("way", ["proxy", "middleware"])
def test_javascript_everything(stand_in: str, picture: Path, tmp_path: Path, ear: Ear, way: str) -> None:
    data = base64.b64encode(picture.read_bytes()).decode()
    filled = {"SERVER": stand_in, "WAY": way, "HOOK": ear.url, "PICTURE": data}
    out = last_line(run_script("fal_everything.mjs", tmp_path, filled))
    check_output(out["ran"]["data"])
    assert out["ran"]["requestId"] and out["got"]["prompt"] == "steps=2"
    for mode in ("polling", "streaming"):
        check_output(out[mode]["data"])
        assert out[mode]["requestId"] and out[mode]["words"][-1] == "COMPLETED"
        assert out[mode]["logs"].count("memory: fake") == 1, "the client accumulates the logs of a stream"
    assert {"status_url", "response_url", "cancel_url", "queue_position"} <= set(out["receipt"])
    for status in (out["status"], out["streamed"]):
        assert status["status"] == "COMPLETED" and status["request_id"] == out["receipt"]["requestId"]
        assert [line["message"] for line in status["logs"]][-1].startswith("step 2 of 2")
    check_output(out["result"])
    ((_, told),) = heard(ear, 1)
    assert (told["request_id"], told["payload"]) == (out["receipt"]["requestId"], out["result"])

    codes = {"late": 400, "early": 400, "cancelled": 499, "failed": 500, "failedRun": 500, "unknown": 404}
    codes |= {"unknownCancel": 404, "noApp": 404, "wrongKey": 401, "wrongKeyUpload": 401, "noKey": 401}
    for name, code in codes.items():
        assert (out[name]["known"], out[name]["status"]) == (True, code), name
    assert out["late"]["body"] == {"status": "ALREADY_COMPLETED"}
    assert out["cancelled"]["message"] == "Request was cancelled"
    assert out["failed"]["body"] == out["failedRun"]["body"]
    assert out["refused"]["known"] and out["refused"]["fields"][0]["type"] == "less_than_equal"

    assert out["uploaded"].startswith(f"http://{stand_in}/") and out["uploaded"].endswith("/red-circle.png")
    for name in ("uploaded", "brief"):
        answer = fetch(out[name])
        assert (answer.content, answer.headers["content-type"]) == (picture.read_bytes(), "image/png")
    assert fetch(out["large"]).content == bytes([7]) * (91 * 2**20)
    check_output(out["fromUrl"])
    check_output(out["fromBlob"])
    for name in ("noStream", "noClientStream"):
        assert (out[name]["status"], out[name]["body"]["detail"]) == (404, "Path /stream not found")
    assert {httpx.URL(url).path for url in out["elsewhere"]} == {f"/{ID}/stream"}, "only the client-mode stream"
