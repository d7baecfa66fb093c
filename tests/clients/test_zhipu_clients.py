"""Runs zai-sdk, zhipuai and 302.AI's plain requests against real servers."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import zai.core
import zhipuai.core
from PIL import Image
from zai import ZaiClient, ZhipuAiClient
from zhipuai import ZhipuAI

from tests.rigs import pace
from tests.rigs.clients.running import KEY, Film, fetch, stand_in_server
from tests.rigs.facades.zhipu import token

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The HMAC key is"),  # PyJWT warns about our short secret
]
ZHIPU_KEY = KEY.replace(":", ".")
MODEL = "cogvideox-3"
BROKEN_TYPE = "application/json;charset:utf-8;"  # as on 302.AI's page
Client = Callable[..., Any]
SDKS: dict[str, Client] = {"zai": ZaiClient, "zhipuaiclient": ZhipuAiClient, "zhipuai": ZhipuAI}
every_sdk = pytest.mark.parametrize("sdk", SDKS.values(), ids=SDKS)


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def sent() -> list[httpx.Request]:
    """The requests that the clients of this test have sent."""
    return []


@pytest.fixture
def connect(sent: list[httpx.Request]) -> Iterator[Client]:
    opened: list[httpx.Client] = []

    def connected(sdk: Client, address: str, key: str = ZHIPU_KEY, **options: Any) -> Any:
        http = httpx.Client(event_hooks={"request": [sent.append]}, timeout=pace.seconds(60))
        opened.append(http)
        return sdk(api_key=key, base_url=f"http://{address}/api/paas/v4", http_client=http, **options)

    yield connected
    for client in opened:
        client.close()


def ended(client: Any, task: Any) -> Any:
    """Polls a task as the SDK's own example does; returns its final state."""
    while task.task_status == "PROCESSING":
        time.sleep(0.2)
        task = client.videos.retrieve_videos_result(id=task.id)
    return task


def picture_at(url: str) -> Image.Image:
    got = fetch(url)
    assert (got.status_code, got.headers["content-type"]) == (200, "image/jpeg")
    return Image.open(io.BytesIO(got.content)).convert("RGB")


def film_at(url: str, folder: Path) -> Film:
    """The video at `url`, which must be readable without a key."""
    got = fetch(url)
    assert (got.status_code, got.headers["content-type"]) == (200, "video/mp4")
    return Film.read(got.content, folder)


def test_text_to_video_with_zai(server: str, connect: Client, tmp_path: Path) -> None:
    client = connect(ZhipuAiClient, server)
    task = client.videos.generations(
        model=MODEL, prompt="a red circle moves left", size="1280x720", quality="speed", request_id="film-1"
    )
    assert (task.task_status, task.model, task.request_id) == ("PROCESSING", MODEL, "film-1")
    done = ended(client, task)
    assert (done.task_status, done.id, done.request_id) == ("SUCCESS", task.id, "film-1")
    assert film_at(done.video_result[0].url, tmp_path) == Film(150, 30, 1280, 720)
    assert picture_at(done.video_result[0].cover_image_url).size == (1280, 720)
    assert any(note.startswith("size: 1280x720 made at") for note in done.notes)


def test_image_to_video_with_zhipuai(server: str, connect: Client, picture: Path, tmp_path: Path) -> None:
    client = connect(ZhipuAI, server, disable_token_cache=False)
    data = base64.b64encode(picture.read_bytes()).decode()
    task = client.videos.generations(model="cogvideox-2", image_url=data, fps=60, with_audio=True, user_id="user-0001")
    done = ended(client, task)
    film = film_at(done.video_result[0].url, tmp_path)
    given = Image.open(picture).convert("RGB")
    assert film == Film(300, 60, *given.size)
    cover = np.asarray(picture_at(done.video_result[0].cover_image_url)).astype(int)
    assert np.abs(cover - np.asarray(given).astype(int)).mean() < 20, "the video begins with the image"
    middle = cover[given.height // 2, given.width // 2]
    assert middle[0] > middle[1:].max() + 40, "the circle is red"


def test_302ai(server: str, picture_url: str, tmp_path: Path) -> None:
    """In 302.AI's published requests all values are text, and POST and GET have a misspelt content type."""
    headers = {"Authorization": f"Bearer {ZHIPU_KEY}", "Content-Type": BROKEN_TYPE}
    body = {"model": "cogvideox-2", "prompt": "it moves left", "image_url": {"url": picture_url}, "quality": False}
    body |= {"size": "960x1280", "duration": "10", "fps": "30", "with_audio": "false"}
    with requests.Session() as session:
        address = f"http://{server}/zhipu/api/paas/v4"
        task = session.post(
            f"{address}/videos/generations", headers=headers, json=body, timeout=pace.seconds(60)
        ).json()
        assert task["task_status"] == "PROCESSING"
        while task["task_status"] == "PROCESSING":
            time.sleep(0.2)
            query = f"{address}/async-result/{task['id']}?geo=global"
            task = session.get(query, headers=headers, timeout=pace.seconds(60)).json()
        assert film_at(task["video_result"][0]["url"], tmp_path) == Film(300, 30, 960, 1280)
        assert any(note.startswith("duration: 10 s -> ") for note in task["notes"]), task["notes"]
        query = f"http://{server}/302/v2/video/fetch/{task['id']}"
        unified = session.get(query, headers=headers, timeout=pace.seconds(60)).json()
    assert (unified["status"], unified["mode"]) == ("completed", "i2v")
    assert unified["video_url"] == task["video_result"][0]["url"]


def test_302ai_unified(stand_in: str) -> None:
    headers = {"Authorization": f"Bearer {ZHIPU_KEY}"}
    with requests.Session() as session:
        session.headers.update(headers)

        def run(prompt: str) -> dict[str, Any]:
            body = {"model": "cogvideox_3-t2v", "prompt": prompt, "duration": 5, "aspect_ratio": "9:16"}
            task = session.post(f"http://{stand_in}/302/v2/video/create", json=body, timeout=pace.seconds(60)).json()
            while task["status"] in ("pending", "processing"):
                time.sleep(0.1)
                task = session.get(
                    f"http://{stand_in}/302/v2/video/fetch/{task['task_id']}", timeout=pace.seconds(60)
                ).json()
            return dict(task)

        done = run("steps=2")
        assert done["status"] == "completed"
        assert fetch(done["video_url"]).status_code == 200
        failed = run("fail=internal")
        assert (failed["status"], failed["video_url"]) == ("failed", None)
        assert failed["error"]["message"] == "prompt: as told"
        unknown = session.get(f"http://{stand_in}/302/v2/video/fetch/nothing", timeout=pace.seconds(60))
        assert (unknown.status_code, unknown.json()["error"]["err_code"]) == (404, -99)
        wrong = session.post(
            f"http://{stand_in}/302/v2/video/create",
            headers={"Authorization": "Bearer sk-wrong"},
            json={},
            timeout=pace.seconds(60),
        )
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "unauthorized")
        files = {"image": ("a.gif", b"GIF89a")}
        bad = session.post(
            f"http://{stand_in}/302/v2/video/create", data={"model": MODEL}, files=files, timeout=pace.seconds(60)
        )
        assert (bad.status_code, bad.json()["error"]["code"]) == (400, "1214")


@every_sdk
@pytest.mark.parametrize("cached", [True, False], ids=["key", "token"])
def test_every_client_and_both_forms_of_the_key(
    stand_in: str, connect: Client, sent: list[httpx.Request], sdk: Client, cached: bool
) -> None:
    client = connect(sdk, stand_in, disable_token_cache=cached)
    done = ended(client, client.videos.generations(model="cogvideox-flash", prompt="steps=2"))
    assert done.task_status == "SUCCESS"
    for url in (done.video_result[0].url, done.video_result[0].cover_image_url):
        assert fetch(url).status_code == 200
    assert sent[0].headers["authorization"].count(".") == (1 if cached else 2)


@every_sdk
def test_failure(stand_in: str, connect: Client, sdk: Client) -> None:
    client = connect(sdk, stand_in)
    done = ended(client, client.videos.generations(model=MODEL, prompt="fail=internal"))
    assert done.task_status == "FAIL"
    error = done.error
    assert (error["code"], error["message"]) == ("500", "prompt: as told")


@every_sdk
def test_refusals(stand_in: str, connect: Client, sent: list[httpx.Request], sdk: Client) -> None:
    errors: Any = zhipuai.core._errors if sdk is ZhipuAI else zai.core._errors
    create = connect(sdk, stand_in).videos.generations
    for fields, code in (
        ({"model": "sora", "prompt": "p"}, "1211"),
        ({"model": MODEL}, "1213"),
        ({"model": MODEL, "prompt": "x" * 513}, "1261"),
        ({"model": MODEL, "prompt": "p", "size": "1x1"}, "1214"),
        ({"model": MODEL, "prompt": "p", "image_url": ["a", "b"]}, "1214"),
    ):
        with pytest.raises(errors.APIRequestFailedError) as refused:
            create(**fields)
        assert refused.value.response.json()["error"]["code"] == code
    name = f"{sdk.__module__}.{sdk.__name__}"
    create(model=MODEL, prompt="steps=1", request_id=name)
    with pytest.raises(errors.APIRequestFailedError) as refused:
        create(model=MODEL, prompt="steps=1", request_id=name)
    assert refused.value.response.json()["error"]["code"] == "1231"
    with pytest.raises(errors.APIStatusError) as unknown:
        connect(sdk, stand_in).videos.retrieve_videos_result(id="nothing")
    assert unknown.value.status_code == 404
    with pytest.raises(errors.APIStatusError) as large:
        create(model=MODEL, prompt="p", image_url=base64.b64encode(noise()).decode())
    assert (large.value.status_code, large.value.response.json()["error"]["code"]) == (435, "1220")
    assert len(sent) == 9, "the SDK must not retry refused requests"


def noise() -> bytes:
    """A PNG of more than 5 MB."""
    pixels = np.random.default_rng(1).integers(0, 256, (1400, 1400, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


@every_sdk
def test_wrong_keys(stand_in: str, connect: Client, sdk: Client) -> None:
    errors: Any = zhipuai.core._errors if sdk is ZhipuAI else zai.core._errors
    for key, cached, code in (
        ("id.wrong", True, "1002"),
        ("id.wrong", False, "1002"),
        ("who.secret", False, "1002"),
        (token("id", "secret", exp=(time.time() - 600) * 1000), True, "1003"),
    ):
        with pytest.raises(errors.APIAuthenticationError) as refused:
            connect(sdk, stand_in, key, disable_token_cache=cached).videos.generations(model=MODEL, prompt="p")
        assert refused.value.response.json()["error"]["code"] == code


@every_sdk
def test_a_full_queue_is_said_at_once(full: str, connect: Client, sent: list[httpx.Request], sdk: Client) -> None:
    errors: Any = zhipuai.core._errors if sdk is ZhipuAI else zai.core._errors
    with pytest.raises(errors.APIReachLimitError) as refused:
        connect(sdk, full).videos.generations(model=MODEL, prompt="p")
    assert refused.value.response.json()["error"]["code"] == "1305"
    assert len(sent) == 1, "the SDK retried although the response forbids it"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a server whose queue is full."""
    with stand_in_server(tmp_path_factory.mktemp("full"), max_queue="1") as address:
        url = f"http://{address}/api/paas/v4/videos/generations"
        body = {"model": MODEL, "prompt": "steps=1000 sleep=1"}
        with requests.Session() as session:
            session.trust_env = False
            codes = [
                session.post(url, json=body, headers={"Authorization": ZHIPU_KEY}, timeout=pace.seconds(60)).status_code
                for _ in range(4)
            ]
        assert codes[-1] == 429
        yield address
