"""Every call of fal's unchanged Python client, with the fake engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client as c
import httpx
import httpx_sse
import pytest
from PIL import Image

from tests.rigs import pace
from tests.rigs.clients.fal_client import ID, check_output, heard
from tests.rigs.clients.running import KEY, fetch
from tests.rigs.ear import Ear
from tests.rigs.facades.fal import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUICK = {"prompt": "steps=2", "seed": 7}
SLOW = {"prompt": "steps=3000 sleep=0.02"}


@pytest.fixture
def pointed(stand_in: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes fal_client call this server; the documentation gives the four assignments for this."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(c, "RUN_URL_FORMAT", f"http://{stand_in}/run/")
    monkeypatch.setattr(c, "QUEUE_URL_FORMAT", f"http://{stand_in}/queue/")
    monkeypatch.setattr(c, "REST_URL", f"http://{stand_in}")
    monkeypatch.setattr(c, "CDN_URL", f"http://{stand_in}")
    return stand_in


@pytest.fixture
def clients(pointed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], fal_client.SyncClient]]:
    """Creates clients with a given key and closes their connections at the end, because fal_client does not."""
    made: list[fal_client.SyncClient] = []
    opened: list[httpx.Client] = []
    open_another = fal_client.SyncClient._get_cdn_client

    def remembered(client: fal_client.SyncClient) -> httpx.Client:
        opened.append(open_another(client))
        return opened[-1]

    def client_with(key: str) -> fal_client.SyncClient:
        made.append(fal_client.SyncClient(key=key))
        return made[-1]

    monkeypatch.setattr(fal_client.SyncClient, "_get_cdn_client", remembered)
    yield client_with
    for part in [*opened, *(part for client in made for part in vars(client).values())]:
        if isinstance(part, httpx.Client):
            part.close()


@pytest.fixture
def client(clients: Callable[[str], fal_client.SyncClient]) -> fal_client.SyncClient:
    return clients(KEY)


@pytest.fixture
def stranger(clients: Callable[[str], fal_client.SyncClient]) -> fal_client.SyncClient:
    return clients("no:no")


@asynccontextmanager
async def async_client(key: str = KEY) -> AsyncIterator[fal_client.AsyncClient]:
    client = fal_client.AsyncClient(key=key)
    yield client
    await (await client._client).aclose()


def check_error(error: fal_client.FalClientHTTPError, code: int, kind: str | None = None) -> None:
    assert (error.status_code, error.error_type) == (code, kind), error


def test_python_run_and_queue(client: fal_client.SyncClient) -> None:
    check_output(client.run(ID, QUICK, start_timeout=30, hint="h", headers={"X-Fal-Store-IO": "0"}))
    handle = client.submit(ID, {**QUICK, "prompt": "steps=5 sleep=0.1"}, priority="low", start_timeout=30)
    events = list(handle.iter_events(with_logs=True, interval=0.05))
    assert isinstance(events[-1], fal_client.Completed) and events[-1].error is None
    assert [line["message"] for line in events[-1].logs or []][-1].startswith("step 5 of 5")
    assert {type(event) for event in events} <= {fal_client.Queued, fal_client.InProgress, fal_client.Completed}
    check_output(handle.get())
    check_output(handle.get())
    assert isinstance(client.status(ID, handle.request_id), fal_client.Completed)
    check_output(client.result(ID, handle.request_id))
    check_output(client.get_handle(f"{ID}/image-to-video", handle.request_id).get())
    told: list[Any] = []
    check_output(client.subscribe(ID, QUICK, with_logs=True, on_queue_update=told.append, on_enqueue=told.append))
    assert isinstance(told[0], str) and isinstance(told[-1], fal_client.Completed)


def test_python_cancel(client: fal_client.SyncClient) -> None:
    running, waiting = client.submit(ID, SLOW), client.submit(ID, SLOW)
    while not isinstance(running.status(), fal_client.InProgress):
        time.sleep(0.05)
    assert isinstance(state := waiting.status(), fal_client.Queued) and state.position == 0
    waiting.cancel()
    client.cancel(ID, running.request_id)
    for handle in (waiting, running):
        last = list(handle.iter_events(interval=0.05))[-1]
        assert isinstance(last, fal_client.Completed) and last.error_type == "client_cancelled"
        with pytest.raises(fal_client.FalClientHTTPError) as error:
            handle.get()
        check_error(error.value, 499, "client_cancelled")
        with pytest.raises(fal_client.FalClientHTTPError) as error:
            handle.cancel()
        check_error(error.value, 400)
    with pytest.raises(fal_client.FalClientTimeoutError):
        client.subscribe(ID, SLOW, client_timeout=2)  # cancels the job, because it would block the queue
    check_output(client.subscribe(ID, QUICK))


def test_python_start_timeout(client: fal_client.SyncClient) -> None:
    running = client.submit(ID, SLOW)
    while not isinstance(running.status(), fal_client.InProgress):
        time.sleep(0.05)
    for call in (client.run, client.subscribe):
        with pytest.raises(fal_client.FalClientHTTPError) as error:
            call(ID, QUICK, start_timeout=1.5)
        check_error(error.value, 504, "request_timeout")
    running.cancel()
    assert list(running.iter_events())[-1]


def test_python_failures(client: fal_client.SyncClient) -> None:
    failing = {"prompt": "fail=internal"}
    handle = client.submit(ID, failing)
    last = list(handle.iter_events(interval=0.05))[-1]
    assert isinstance(last, fal_client.Completed)
    assert (last.error_type, last.error) == ("internal_server_error", "as told")
    for call in (lambda: handle.get(), lambda: client.run(ID, failing), lambda: client.subscribe(ID, failing)):
        with pytest.raises(fal_client.FalClientHTTPError) as error:
            call()
        check_error(error.value, 500)
        assert "as told" in str(error.value)
    with pytest.raises(fal_client.FalClientHTTPError) as error:
        client.subscribe(ID, {"prompt": "a", "num_inference_steps": 51})
    assert error.value.status_code == 422 and error.value.message[0]["loc"] == ["body", "num_inference_steps"]
    with pytest.raises(httpx_sse.SSEError):
        list(client.stream(ID, QUICK))


def test_python_strangers(client: fal_client.SyncClient, stranger: fal_client.SyncClient) -> None:
    mine = client.submit(ID, QUICK)
    for call in (
        lambda: stranger.run(ID, QUICK),
        lambda: stranger.submit(ID, QUICK),
        lambda: stranger.result(ID, mine.request_id),
        lambda: stranger.upload(b"x", "text/plain", repository="fal"),
    ):
        with pytest.raises(fal_client.FalClientHTTPError) as error:
            call()
        check_error(error.value, 401)
        assert "invalid key credentials" in str(error.value)
    with pytest.raises(httpx.HTTPStatusError):
        stranger.upload(b"x" * 10, "text/plain", fallback_repository="fal_v3")
    for call in (
        lambda: client.status(ID, "nothing"),
        lambda: client.result(ID, "nothing"),
        lambda: client.cancel(ID, "nothing"),
        lambda: client.run("fal-ai/flux/dev", QUICK),
    ):
        with pytest.raises(fal_client.FalClientHTTPError) as error:
            call()
        check_error(error.value, 404)
    check_output(mine.get())


def test_python_uploads(
    client: fal_client.SyncClient, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_, named = picture.read_bytes(), tmp_path / "ein Kreis ü.png"
    named.write_bytes(bytes_)
    brief = fal_client.StorageSettings(
        expires_in="1h", initial_acl=fal_client.StorageACL("forbid", [fal_client.StorageACLRule("u", "allow")])
    )
    urls = [
        client.upload(bytes_, "image/png"),
        client.upload(bytes_, "image/png", file_name="circle.png", lifecycle=brief),
        client.upload_file(picture),
        client.upload_file(named),  # the name is not a valid header value, so the client uses the other storage
        client.upload(bytes_, "image/png", repository="fal", lifecycle=brief),
        fal_client.encode_file(picture),
    ]
    with Image.open(picture) as image:
        urls.append(client.upload_image(image))
    monkeypatch.setattr(c, "MULTIPART_THRESHOLD", 100)
    monkeypatch.setattr(c, "MULTIPART_CHUNK_SIZE", 16)  # makes more parts than the client sends in parallel
    assert len(bytes_) > 160
    urls += [
        client.upload(bytes_, "image/png", "circle.png", lifecycle=brief),
        client.upload_file(picture, lifecycle=brief),
    ]
    for url in urls:
        if url.startswith("http"):
            answer = fetch(url)
            assert answer.headers["content-type"].startswith("image/")
            assert answer.content == bytes_ or "jpeg" in answer.headers["content-type"]
        check_output(client.subscribe(f"{ID}/image-to-video", {**QUICK, "image_url": url}))


def test_python_uploads_end(client: fal_client.SyncClient) -> None:
    soon = fal_client.StorageSettings(expires_in=1)
    urls = [client.upload(b"abc", "text/plain", repository=where, lifecycle=soon) for where in ("fal_v3", "fal")]
    keep = client.upload(b"abc", "text/plain", lifecycle=fal_client.StorageSettings(expires_in="never"))
    preference = {"X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 1}'}
    urls.append(client.subscribe(ID, QUICK, headers=preference)["video"]["url"])
    for url in urls:
        pace.until(lambda url=url: fetch(url).status_code == 404, every=0.1)
    assert fetch(keep).text == "abc"


def test_python_webhook(client: fal_client.SyncClient, pointed: str, ear: Ear) -> None:
    done = client.submit(ID, QUICK, webhook_url=ear.url)
    ((headers, told),) = heard(ear, 1)
    assert (told["request_id"], told["status"], told["error"]) == (done.request_id, "OK", None)
    check_output(told["payload"])
    assert told["payload"] == done.get()
    jwks = fetch(f"http://{pointed}/.well-known/jwks.json").json()
    verify(jwks, headers, json.dumps(told).encode())
    refused = client.submit(ID, {"prompt": "a", "export_fps": 99}, webhook_url=ear.url)
    failed = client.submit(ID, {"prompt": "fail=internal"}, webhook_url=ear.url)
    words = {told["request_id"]: (told["status"], told["error"]) for _, told in heard(ear, 3)[1:]}
    assert words == {
        refused.request_id: ("ERROR", "Invalid status code: 422"),
        failed.request_id: ("ERROR", "Invalid status code: 500"),
    }


def test_python_async_calls(pointed: str, picture: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(everything_async(picture, ear, monkeypatch))


async def everything_async(picture: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_ = picture.read_bytes()
    async with async_client() as client:
        check_output(await client.run(ID, QUICK, start_timeout=30))
        handle = await client.submit(ID, QUICK, priority="low", webhook_url=ear.url)
        events = [event async for event in handle.iter_events(with_logs=True, interval=0.05)]
        assert isinstance(events[-1], fal_client.Completed) and events[-1].logs
        check_output(await handle.get())
        check_output(await client.result(ID, handle.request_id))
        assert isinstance(await client.status(ID, handle.request_id), fal_client.Completed)
        ((_, told),) = await asyncio.to_thread(heard, ear, 1)
        assert told["payload"] == await handle.get()

        slow = await client.submit(ID, SLOW)
        await client.cancel(ID, slow.request_id)
        assert [event async for event in slow.iter_events(interval=0.05)][-1].error_type == "client_cancelled"
        failing = {"prompt": "fail=internal"}
        for call, code in (
            (slow.get(), 499),
            (client.subscribe(ID, failing), 500),
            (client.run(ID, failing), 500),
            (client.subscribe(ID, {"prompt": "a", "seed": "x"}), 422),
            (client.status(ID, "nothing"), 404),
            (client.cancel(ID, "nothing"), 404),
        ):
            with pytest.raises(fal_client.FalClientHTTPError) as error:
                await call
            assert error.value.status_code == code

        urls = [
            await client.upload(bytes_, "image/png"),
            await client.upload_file(picture, lifecycle=fal_client.StorageSettings(expires_in="1d")),
            await client.upload(bytes_, "image/png", "circle.png", repository="fal"),
        ]
        with Image.open(picture) as image:
            urls.append(await client.upload_image(image, format="png"))
        monkeypatch.setattr(c, "MULTIPART_THRESHOLD", 100)
        monkeypatch.setattr(c, "MULTIPART_CHUNK_SIZE", 16)
        urls += [await client.upload(bytes_, "image/png", "circle.png"), await client.upload_file(picture)]
        for url in urls:
            assert (await asyncio.to_thread(fetch, url)).headers["content-type"] == "image/png"
            check_output(await client.subscribe(f"{ID}/image-to-video", {**QUICK, "image_url": url}))
    async with async_client("no:no") as stranger:
        with pytest.raises(fal_client.FalClientHTTPError) as wrong:
            await stranger.subscribe(ID, QUICK)
        check_error(wrong.value, 401)
