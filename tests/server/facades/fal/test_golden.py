"""Golden files hold fal's answers in every job state: the status code, fal's headers and the body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.errors import DiskFull, NoModel, QueueFull
from server.facades.kit.errors import Unavailable
from server.jobs.job import Job
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Clock, Rig
from tests.rigs.facades.fal import QUEUE, RUN
from tests.rigs.job_table import fail, hold

KEY = {"authorization": "Key id:secret"}
TIMES = ("inference_time", "inference")
INPUT = {"prompt": "a red circle", "seed": 7, "use_rife": False}


@pytest.fixture
def store(build: Build) -> Rig:
    return build(keys="id:secret", clock=Clock(1_800_000_000.0), real_media=True)


def check(name: str, answer: httpx.Response, replace: dict[str, str] | None = None) -> None:
    headers = {k: v for k, v in sorted(answer.headers.items()) if k.startswith("x-fal-")}
    if "x-fal-request-id" in headers:
        headers["x-fal-request-id"] = "<uuid>"
    body = answer.json() if answer.headers["content-type"] == "application/json" else answer.text
    whole = {"http": answer.status_code, "headers": headers, "body": body}
    golden.check(f"fal/{name}", whole, times=TIMES, replace=replace)


def submitted(served: Rig) -> dict[str, str]:
    served.table.end = hold
    receipt: dict[str, str] = served.client.post(QUEUE, json=INPUT).json()
    return receipt


def told(served: Rig, name: str, receipt: dict[str, str]) -> None:
    """Checks the answers at a job's four URLs: status, result, event stream and cancellation."""
    client = served.client
    check(f"status_{name}", client.get(receipt["status_url"] + "?logs=true"))
    check(f"result_{name}", client.get(receipt["response_url"]))
    events = client.get(receipt["status_url"] + "/stream?logs=1").text if name not in ("queued", "running") else ""
    for line in filter(None, events.split("\n\n")):
        golden.check(f"fal/event_{name}", json.loads(line.removeprefix("data: ")), times=TIMES)
    check(f"cancel_{name}", client.put(receipt["cancel_url"]))


def test_queued(served: Rig) -> None:
    check("submit", served.client.post(QUEUE, json=INPUT))
    told(served, "queued", submitted(served))


def test_running(served: Rig) -> None:
    receipt = submitted(served)
    served.table.start(receipt["request_id"])
    check("status_running_without_logs", served.client.get(receipt["status_url"] + "?logs=false"))
    told(served, "running", receipt)


def test_succeeded(served: Rig) -> None:
    receipt = submitted(served)
    served.table.start(receipt["request_id"])
    served.table.finish(receipt["request_id"])
    check("status_succeeded_without_logs", served.client.get(receipt["status_url"]))
    told(served, "succeeded", receipt)


def test_run(served: Rig) -> None:
    check("run", served.client.post(RUN, json=INPUT))


def test_failed(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = fail("internal")
    told(served, "failed", client.post(QUEUE, json=INPUT).json())
    table.end = fail("worker_lost")
    told(served, "lost", client.post(QUEUE, json=INPUT).json())
    table.end = fail("bad_output")
    told(served, "without_media", client.post(QUEUE, json=INPUT).json())


def test_cancelled(served: Rig) -> None:
    receipt = submitted(served)
    served.client.put(receipt["cancel_url"])
    told(served, "cancelled", receipt)


def test_started_too_late(served: Rig) -> None:
    served.table.end = hold
    check("run_too_late", served.client.post(RUN, json=INPUT, headers={"x-fal-request-timeout": "0.01"}))
    receipt = served.client.post(QUEUE, json=INPUT, headers={"x-fal-request-timeout": "0.000001"}).json()
    told(served, "too_late", receipt)


def test_refused_input(served: Rig) -> None:
    told(served, "refused", served.client.post(QUEUE, json={**INPUT, "export_fps": 99}).json())


def test_unknown(served: Rig) -> None:
    links = {f"{name}_url": f"{QUEUE}/requests/nothing{tail}" for name, tail in TAILS}
    told(served, "unknown", links)


TAILS = (("response", ""), ("status", "/status"), ("cancel", "/cancel"))

INVALID: dict[str, tuple[str, dict[str, Any]]] = {
    "missing": ("", {}),
    "type": ("", {"prompt": 5}),
    "range": ("", {"prompt": "a", "guidance_scale": 21}),
    "size": ("", {"prompt": "a", "video_size": "huge"}),
    "large_size": ("", {"prompt": "a", "video_size": {"width": 9000, "height": 480}}),
    "lora_address": ("", {"prompt": "a", "loras": [{"path": "https://example.org/lora.safetensors"}]}),
    "lora_name": ("", {"prompt": "a", "loras": [{"path": "someone/lora"}]}),
    "rife": ("", {"prompt": "a", "use_rife": True}),
    "download": ("/image-to-video", {"prompt": "a", "image_url": "https://example.org/a.png"}),
    "file_too_large": ("/video-to-video", {"prompt": "a", "video_url": "big"}),
    "strength": ("/video-to-video", {"prompt": "a", "video_url": "x", "strength": 2}),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_input(served: Rig, name: str) -> None:
    path, body = INVALID[name]
    check(f"invalid_{name}", served.client.post(RUN + path, json=body))


def test_other_refusals(served: Rig) -> None:
    client, table = served.client, served.table
    check("invalid_json", client.post(RUN, content=b'{"prompt": '))
    check("no_app", client.post("/run/fal-ai/flux/dev", json=INPUT))
    check("no_stream", client.post(f"{RUN}/stream", json=INPUT))
    check("no_method", client.delete(RUN))
    check("no_target", client.post("/fal/proxy", json=INPUT))
    check("bad_webhook", client.post(f"{QUEUE}?fal_webhook=x", json=INPUT))
    headers = {"x-fal-object-lifecycle-preference": "1h"}
    check("bad_lifecycle", client.post(QUEUE, json=INPUT, headers=headers))
    check("too_large", client.post(RUN, content=b"", headers={"content-length": str(2**40)}))
    errors = {
        "queue_full": QueueFull(3),
        "disk_full": DiskFull("only 3 MiB are free on the server's disk"),
        "stopped": Unavailable("the server is stopping"),
        "no_model": NoModel("text-to-video", "no checkpoint here makes videos from text"),
        "unexpected": RuntimeError("secret"),
    }
    for name, error in errors.items():
        table.raises = error
        check(name, client.post(RUN, json=INPUT))


def test_keys(build: Build) -> None:
    client = build(keys="id:secret").client
    check("no_key", client.post(RUN, json=INPUT))
    check("no_key_for_files", client.post("/storage/auth/token", json={}))
    check("wrong_key", client.post(RUN, json=INPUT, headers={"authorization": "Key no:no"}))


def test_webhooks(served: Rig) -> None:
    table = served.table

    def written(name: str, job: Job) -> None:
        letter = served.letter(job, "completed")
        assert letter is not None
        golden.check(f"fal/webhook_{name}", json.loads(letter.body), times=TIMES)

    client = served.client
    url = f"{QUEUE}?fal_webhook=http%3A%2F%2Fexample.org%2Fhook"
    client.post(url, json=INPUT)
    written("succeeded", table.last)
    client.post(url, json={**INPUT, "export_fps": 99})
    written("refused", table.last)
    table.end = fail("internal")
    client.post(url, json=INPUT)
    written("failed", table.last)
    table.end = hold
    client.put(client.post(url, json=INPUT).json()["cancel_url"])
    written("cancelled", table.last)


def test_storage(store: Rig) -> None:
    client = store.client
    made = client.post("/storage/auth/token", json={}, headers=KEY)
    check("upload_token", made, {made.json()["token"]: "<token>"})
    uploaded = client.post("/files/upload", content=b"x", headers={**KEY, "x-fal-file-name": "a.png"})
    check("upload", uploaded, keys(uploaded.json()["access_url"]))
    body = {"file_name": "a.png", "content_type": "image/png"}
    begun = client.post("/storage/upload/initiate?storage_type=gcs", json=body, headers=KEY)
    url = begun.json()["upload_url"]
    check("upload_initiate", begun, keys(url))
    check("upload_put", client.put(url, content=b"x"))
    check("upload_put_again", client.put(url, content=b"x"))
    begun = client.post("/storage/upload/initiate-multipart", json=body, headers=KEY)
    url = begun.json()["upload_url"]
    check("upload_initiate_multipart", begun, keys(url))
    check("upload_part", client.put(f"{url}/1", content=b"x"))
    check("upload_part_number", client.put(f"{url}/x", content=b"x"))
    check("upload_parts_missing", client.post(f"{url}/complete", json={"parts": [{"partNumber": 2}]}))
    check("upload_parts_invalid", client.post(f"{url}/complete", json={"parts": []}))
    check("upload_complete", client.post(f"{url}/complete", json={"parts": [{"partNumber": 1}]}), keys(url))
    begun = client.post("/files/upload/multipart", headers={**KEY, "x-fal-file-name": "a.mp4"})
    check("upload_multipart", begun, keys(f"{begun.json()['access_url']}/multipart/{begun.json()['uploadId']}"))
    check("upload_not_ours", client.put(f"{url}0", content=b"x"))
    check("upload_invalid", client.post("/storage/upload/initiate", json={"file_name": 5}, headers=KEY))
    check("no_file", client.get(f"/fal/files/{'k' * 32}/a.png"))
    token = client.post("/tokens/", json={"allowed_apps": ["cogvideox-5b"]}, headers=KEY)
    check("app_token", token, {token.json(): "<token>"})
    check("app_token_invalid", client.post("/tokens/", json={}, headers=KEY))


def test_jwks(served: Rig) -> None:
    answer = served.client.get("/.well-known/jwks.json")
    (key,) = answer.json()["keys"]
    check("jwks", answer, {key["x"]: "<key>", key["kid"]: "<kid>"})


def keys(url: str) -> dict[str, str]:
    """Returns placeholders for the parts of an upload's URL that change from run to run."""
    file, _, ticket = url.partition("/multipart/")
    return {file.split("/")[-2]: "<key>", **({ticket: "<ticket>"} if ticket else {})}


def test_every_file_is_checked() -> None:
    """Finds golden files that no test uses."""
    text = Path(__file__).read_text("utf-8")
    states = ("queued", "running", "succeeded", "failed", "lost", "without_media", "cancelled", "too_late", "refused")
    made = {f"{word}_{state}" for word in ("status", "result", "event", "cancel", "webhook") for state in states}
    made |= {f"{word}_unknown" for word in ("status", "result", "event", "cancel")}
    for path in (golden.FOLDER / "fal").glob("*.json"):
        assert path.stem in made or path.stem.removeprefix("invalid_") in INVALID or f'"{path.stem}"' in text, path
