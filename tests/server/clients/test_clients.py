"""Programs written for the clouds, run as they are against the real server on the demo model.

Only addresses, key and picture are filled in. Each brings back a film that plays, with the frames it was promised.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.models import ModelInfo
from pipelines.request import Task
from tests.server.clients.running import KEY, Film, fetch, run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


SIZE = (720, 480)  # what the clouds make when no size is named


def last_line(printed: str) -> Any:
    return json.loads(printed.strip().splitlines()[-1])


def fetched(url: str, folder: Path) -> Film:
    """The film at `url`, for which no key must be needed."""
    answer = fetch(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    return Film.read(answer.content, folder)


def promised(model: ModelInfo, *, frames: int | None = None, fps: int) -> Film:
    return Film(frames or model.family.frames.default, fps, *SIZE)


def test_fal_python(server: str, model: ModelInfo, tmp_path: Path) -> None:
    printed = run_script("fal_subscribe.py", tmp_path, {"SERVER": server})
    result = last_line(printed)
    assert set(result) == {"video", "timings", "seed", "prompt"}
    assert result["video"]["file_size"] == len(fetch(result["video"]["url"]).content)
    assert fetched(result["video"]["url"], tmp_path) == promised(model, fps=16)
    assert len(printed.strip().splitlines()) > 1, "logs were asked for"


def test_fal_python_async(server: str, model: ModelInfo, tmp_path: Path) -> None:
    told = last_line(run_script("fal_async.py", tmp_path, {"SERVER": server}))
    assert told["words"][-1] == "Completed"
    assert fetched(told["result"]["video"]["url"], tmp_path) == promised(model, fps=16)
    assert told["result"]["seed"] == told["ran"]["seed"] == 7
    assert fetched(told["ran"]["video"]["url"], tmp_path) == promised(model, fps=16)
    remade = fetched(told["remade"]["video"]["url"], tmp_path)  # one of our own films, taken by its address
    assert (remade.width, remade.height, remade.fps) == (*SIZE, 16)
    assert remade.frames > 1
    assert told["cancelled"] == 499
    assert told["refused"][0]["loc"] == ["body", "num_inference_steps"]


def test_fal_javascript(server: str, model: ModelInfo, tmp_path: Path) -> None:
    printed = run_script("fal_subscribe.mjs", tmp_path, {"SERVER": server})
    result = last_line(printed)
    assert result["requestId"]
    assert fetched(result["data"]["video"]["url"], tmp_path) == promised(model, fps=16)
    assert len(printed.strip().splitlines()) > 1, "logs were asked for"


def test_fal_javascript_calls(server: str, models: Mapping[Task, ModelInfo], picture: Path, tmp_path: Path) -> None:
    data = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    told = last_line(run_script("fal_calls.mjs", tmp_path, {"SERVER": server, "PICTURE": data}))
    assert told["ran"]["requestId"]
    made = ((told["ran"]["data"], Task.T2V), (told["streamed"], Task.T2V), (told["pictured"], Task.I2V))
    for output, task in made:
        assert output["seed"] == 7
        assert fetched(output["video"]["url"], tmp_path) == promised(models[task], fps=16)
    assert told["words"][-1] == "COMPLETED"
    assert told["cancelled"] == 499
    assert told["refused"]["known"] is True
    assert told["refused"]["fields"][0]["type"] == "less_than_equal"


@pytest.mark.parametrize("task", ["t2v", "i2v"])
@pytest.mark.parametrize("form", ["json", "content"])
def test_segmind(
    server: str, models: Mapping[Task, ModelInfo], picture_url: str, tmp_path: Path, task: str, form: str
) -> None:
    replace = {"https://api.segmind.com": f"http://{server}", "YOUR_API_KEY": KEY, "PICTURE": picture_url}
    printed = run_script(f"segmind_{task}_{form}.py", tmp_path, replace)
    info = models[Task.T2V if task == "t2v" else Task.I2V]
    frames = (
        {"t2v": 49, "i2v": info.family.frames.default}[task] if form == "json" else 20
    )  # 20 is no count of a model's
    wanted = promised(info, frames=frames, fps=8 if task == "t2v" else info.family.fps)
    if form == "content":
        assert Film.read((tmp_path / "film.mp4").read_bytes(), tmp_path) == wanted
        return
    result = json.loads(printed)
    assert result["status"] == "COMPLETED"
    assert result["seed"] == (806286757407563 if task == "t2v" else 42)
    assert result["output"] == result["video"]["url"]
    assert fetched(result["output"], tmp_path) == wanted
