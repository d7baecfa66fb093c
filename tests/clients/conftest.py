"""Session-wide servers for tests with real clients, and the clients' input files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub.constants
import pytest
from PIL import Image, ImageDraw

from pipelines.models import ModelInfo
from pipelines.request import Task
from server.served import choose
from server.settings import Settings
from tests.rigs.clients.running import few_steps, running_server, served_folder, stand_in_server


@pytest.fixture(autouse=True)
def online_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allows downloads: the engine may have set HF_HUB_OFFLINE before huggingface_hub was imported and read it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of the real server with the demo model and few steps; its key is `running.KEY`."""
    with running_server(tmp_path_factory.mktemp("server"), few_steps(), allow_private_urls="true") as address:
        yield address


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a server with the fake engine (`tests/rigs/fake_engine.py`), whose prompts are commands: run
    quickly, fail, hang, crash."""
    with stand_in_server(tmp_path_factory.mktemp("stand-in"), allow_private_urls="true") as address:
        yield address


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Task, ModelInfo]:
    """The model that `server` uses for each task."""
    return choose(Settings.load(models_dir=tmp_path_factory.mktemp("none"), device="cpu")).by_task


@pytest.fixture(scope="session")
def model(models: Mapping[Task, ModelInfo]) -> ModelInfo:
    return models[Task.T2V]


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory, models: Mapping[Task, ModelInfo]) -> Path:
    """An image of a red circle on grey."""
    width, height = models[Task.I2V].family.sizes.default
    image = Image.new("RGB", (width, height), "grey")
    ImageDraw.Draw(image).ellipse((width // 2 - 10, height // 2 - 10, width // 2 + 10, height // 2 + 10), fill="red")
    path = tmp_path_factory.mktemp("picture") / "circle.png"
    image.save(path)
    return path


@pytest.fixture(scope="session")
def picture_url(picture: Path) -> Iterator[str]:
    with served_folder(picture.parent) as address:
        yield f"http://{address}/{picture.name}"
