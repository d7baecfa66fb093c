"""fal's API calls for a job in every state."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from server.jobs.job import Status
from tests.rigs import pace
from tests.rigs.facade_rig import Build, Rig, hang_up
from tests.rigs.facades.fal import APP, QUEUE, RUN
from tests.rigs.job_table import hold
from tests.rigs.stand_ins import CLIP, PICTURE


def test_run_answers_with_the_output_itself(served: Rig) -> None:
    client, table = served.client, served.table
    answer = client.post(RUN, json={"prompt": "a red ball", "seed": 7})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-request-id"] == table.last.id
    body = answer.json()
    assert set(body) == {"video", "timings", "seed", "prompt"}
    assert (body["seed"], body["prompt"]) == (7, "a red ball")
    assert body["video"] == {
        "url": served.url(table.last.video),
        "content_type": "video/mp4",
        "file_name": "film.mp4",
        "file_size": table.last.video.size if table.last.video else None,
    }
    assert body["timings"]["inference"] >= 0


def test_defaults_are_fals(served: Rig) -> None:
    client, table = served.client, served.table
    client.post(RUN, json={"prompt": "a", "num_inference_steps": None})
    request = table.last.request
    assert (request.num_inference_steps, request.guidance_scale, request.fps) == (50, 7, 16)
    assert (request.width, request.height, request.num_frames, request.interpolate_fps) == (720, 480, None, None)
    assert request.seed is not None
    assert request.seed < 2**32


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        ("portrait_16_9", (576, 1024)),
        ({"width": 700}, (700, 512)),
        ({"width": "640", "height": 360}, (640, 360)),
    ],
)
def test_sizes(served: Rig, size: Any, pixels: tuple[int, int]) -> None:
    client, table = served.client, served.table
    assert client.post(RUN, json={"prompt": "a", "video_size": size}).status_code == 200
    assert (table.last.request.width, table.last.request.height) == pixels


@pytest.mark.parametrize(
    ("given", "text"), [(["blurry", "dark"], "blurry, dark"), (["a", " "], "a"), ([], ""), ("blurry", "blurry")]
)
def test_negative_prompt_may_be_a_list(served: Rig, given: Any, text: str) -> None:
    """huggingface_hub's provider fal-ai sends the negative prompt as a list."""
    client, table = served.client, served.table
    for path in ("/run/fal-ai/cogvideox-5b", "/queue/fal-ai/cogvideox-5b"):
        assert client.post(path, json={"prompt": "a", "negative_prompt": given}).status_code == 200
        assert table.last.request.negative_prompt == text
    refused = client.post("/run/fal-ai/cogvideox-5b", json={"prompt": "a", "negative_prompt": [1]})
    assert refused.json()["detail"][0]["loc"] == ["body", "negative_prompt"]


def test_the_log_names_fields_that_fal_does_not_have(served: Rig) -> None:
    client = served.client
    receipt = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": "a", "num_frames": 49.0, "sync_mode": 1}).json()
    logs = client.get(f"{receipt['status_url']}?logs=1").json()["logs"]
    said = [line["message"] for line in logs if "no such field" in line["message"]]
    assert said == [f"{name}: ignored (this server has no such field)" for name in ("num_frames", "sync_mode")]


def test_picture_and_clip(served: Rig) -> None:
    client, table = served.client, served.table
    assert client.post(f"{RUN}/image-to-video", json={"prompt": "a", "image_url": PICTURE}).status_code == 200
    assert table.last.request.image is not None
    body = {"prompt": "a", "video_url": CLIP, "strength": 0.5}
    assert client.post(f"{RUN}/video-to-video", json=body).status_code == 200
    assert table.last.request.video is not None
    assert table.last.request.strength == 0.5


def test_rife_is_used_when_there(build: Build) -> None:
    rig = build(rife=True)
    client, table = rig.client, rig.table
    client.post(RUN, json={"prompt": "a", "export_fps": 24})
    assert (table.last.request.fps, table.last.request.interpolate_fps) == (24, 24)
    client.post(RUN, json={"prompt": "a", "export_fps": 24, "use_rife": False})
    assert (table.last.request.fps, table.last.request.interpolate_fps) == (24, None)


def test_without_rife_the_default_is_stamped_and_said(served: Rig) -> None:
    client = served.client
    receipt = client.post(QUEUE, json={"prompt": "a"}).json()
    logs = client.get(receipt["status_url"], params={"logs": "true"}).json()["logs"]
    assert "stamped at 16 fps" in logs[0]["message"]
    receipt = client.post(QUEUE, json={"prompt": "a", "use_rife": False}).json()
    logs = client.get(receipt["status_url"], params={"logs": "1"}).json()["logs"]
    assert [line["message"] for line in logs] == ["begun"]


def test_receipt(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    first = client.post(QUEUE, json={"prompt": "a"})
    second = client.post(f"{QUEUE}/image-to-video", json={"prompt": "a", "image_url": PICTURE})
    assert first.status_code == second.status_code == 200
    body = second.json()
    here = f"http://here:8000/queue{APP}/requests/{table.last.id}"
    assert body == {
        "status": "IN_QUEUE",
        "queue_position": 1,
        "request_id": table.last.id,
        "gateway_request_id": table.last.id,
        "response_url": here,
        "status_url": f"{here}/status",
        "cancel_url": f"{here}/cancel",
    }
    assert second.headers["x-fal-request-id"] == table.last.id


def test_states(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    receipt = client.post(QUEUE, json={"prompt": "a", "use_rife": False}).json()
    job_id, url = receipt["request_id"], receipt["status_url"]
    links = {k: receipt[k] for k in ("request_id", "response_url", "status_url", "cancel_url")}
    waiting = client.get(url)
    assert (waiting.status_code, waiting.json()["status"], waiting.json()["queue_position"]) == (202, "IN_QUEUE", 0)
    early = client.get(receipt["response_url"])
    assert (early.status_code, early.json()["detail"]) == (400, "Request is still in progress")
    table.start(job_id)
    working = client.get(url)
    assert (working.status_code, working.json()["status"]) == (202, "IN_PROGRESS")
    assert working.json()["logs"] is None
    table.log(job_id, "hm", "warning")
    logs = client.get(url, params={"logs": "true"}).json()["logs"]
    assert [(line["message"], line["level"], line["source"]) for line in logs] == [
        ("begun", "INFO", "USER"),
        ("hm", "WARN", "USER"),
    ]
    table.finish(job_id)
    done = client.get(url)
    assert (done.status_code, done.json()["status"], done.json()["logs"]) == (200, "COMPLETED", None)
    assert done.json()["metrics"]["inference_time"] >= 0
    assert "error" not in done.json()
    assert links.items() <= working.json().items()
    assert links.items() <= done.json().items()
    for url in (receipt["response_url"], receipt["response_url"] + "/response", receipt["response_url"] + "/"):
        assert client.get(url, follow_redirects=False).json()["prompt"] == "a"
    assert client.put(receipt["cancel_url"]).json() == {"status": "ALREADY_COMPLETED"}


def test_cancel(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    waiting = client.post(QUEUE, json={"prompt": "a"}).json()
    answer = client.put(waiting["cancel_url"], headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert client.get(waiting["status_url"]).json()["error_type"] == "client_cancelled"
    result = client.get(waiting["response_url"])
    assert (result.status_code, result.headers["x-fal-error-type"]) == (499, "client_cancelled")
    assert result.json()["message"] == result.json()["detail"] == "Request was cancelled"
    assert client.put(waiting["cancel_url"]).status_code == 400

    running = client.post(QUEUE, json={"prompt": "a"}).json()
    table.start(running["request_id"])
    assert client.put(running["cancel_url"]).status_code == 202
    assert client.get(running["status_url"]).json()["status"] == "IN_PROGRESS"
    table.stop(running["request_id"])
    assert client.get(running["status_url"]).json()["status"] == "COMPLETED"


def test_priority(served: Rig) -> None:
    client, table = served.client, served.table
    for value, priority in (("low", -1), (" Low ", -1), ("normal", 0), ("urgent", 0), (None, 0)):
        headers = {} if value is None else {"x-fal-queue-priority": value}
        assert client.post(QUEUE, json={"prompt": "a"}, headers=headers).status_code == 200
        assert table.last.priority == priority


@pytest.mark.parametrize("call", [RUN, QUEUE, f"/fal{QUEUE}"])
def test_how_long_the_result_is_kept(served: Rig, call: str) -> None:
    client, table = served.client, served.table
    for value, kept in (('{"expiration_duration_seconds": 60}', 60), ('{"initial_acl": {}}', None), (None, None)):
        headers = {} if value is None else {"x-fal-object-lifecycle-preference": value}
        assert client.post(call, json={"prompt": "a"}, headers=headers).status_code == 200
        assert table.last.keep_seconds == kept


def test_what_is_accepted_without_effect(served: Rig) -> None:
    client, table = served.client, served.table
    headers = {"x-fal-store-io": "0", "x-fal-no-retry": "1", "x-fal-runner-hint": "h", "x-app-fal-disable-fallback": ""}
    for call in (RUN, QUEUE):
        assert client.post(call, json={"prompt": "a", "unknown": 1}, headers=headers).status_code == 200
        assert "unknown" not in table.last.memo


@pytest.mark.parametrize("endpoint", ["", "/image-to-video", "/video-to-video"])
def test_a_request_is_found_under_every_name(served: Rig, endpoint: str) -> None:
    client = served.client
    receipt = client.post(QUEUE, json={"prompt": "a"}).json()
    here = f"{QUEUE}{endpoint}/requests/{receipt['request_id']}"
    for tail in ("", "/", "/response", "/status", "/status/", "/status/stream"):
        answer = client.get(here + tail, follow_redirects=False)
        assert answer.status_code == 200
        assert answer.headers["x-fal-request-id"] == receipt["request_id"]
    assert client.put(f"{here}/cancel/", follow_redirects=False).status_code == 400


def test_longest_queue(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    assert client.post(f"{QUEUE}?fal_max_queue_length=0", json={"prompt": "a"}).status_code == 200
    answer = client.post(f"{QUEUE}?fal_max_queue_length=0", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (429, "concurrent_requests_limit")
    assert client.post(f"{QUEUE}?fal_max_queue_length=1", json={"prompt": "a"}).status_code == 200
    assert len(table.jobs) == 2


def test_start_deadline(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    answer = client.post(RUN, json={"prompt": "a"}, headers={"x-fal-request-timeout": "0.2"})
    assert answer.status_code == 504
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    receipt = client.post(QUEUE, json={"prompt": "a"}, headers={"x-fal-request-timeout": "0.20"}).json()
    pace.until(lambda: client.get(receipt["status_url"]).json().get("error_type") == "request_timeout")
    assert client.get(receipt["response_url"]).status_code == 504


def test_deadline_spares_what_has_begun(served: Rig) -> None:
    client, table = served.client, served.table
    for value in ("0.05", "nonsense", "-1", "nan"):
        headers = {"x-fal-request-timeout": value}
        assert client.post(RUN, json={"prompt": "a"}, headers=headers).status_code == 200
    table.end = hold
    receipt = client.post(QUEUE, json={"prompt": "a"}, headers={"x-fal-request-timeout": "0.2"}).json()
    table.start(receipt["request_id"])
    time.sleep(0.3)
    assert client.get(receipt["status_url"]).json()["status"] == "IN_PROGRESS"


def test_status_stream(served: Rig) -> None:
    """Each log line appears once, the data is JSON only, and the last event is COMPLETED."""
    client, table = served.client, served.table
    receipt = client.post(QUEUE, json={"prompt": "a"}).json()
    answer = client.get(receipt["status_url"] + "/stream?logs=1")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not [line for line in answer.text.splitlines() if line and not line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert [event["status"] for event in events] == ["COMPLETED"]

    table.end = hold
    receipt = client.post(QUEUE, json={"prompt": "a", "use_rife": False}).json()
    job_id = receipt["request_id"]
    told: list[Any] = []
    with client.stream("GET", receipt["status_url"] + "/stream?logs=1") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line[6:]))
                if told[-1]["status"] == "IN_QUEUE":
                    table.start(job_id)
                elif len(told) == 2:
                    table.log(job_id, "more")
                    table.finish(job_id)
    assert [event["status"] for event in told] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    assert [[x["message"] for x in event["logs"]] for event in told[1:]] == [["begun"], ["more"]]


def test_run_is_cancelled_when_its_caller_drops(served: Rig) -> None:
    table = served.table
    table.end = hold
    hang_up(served, RUN, b'{"prompt": "a"}')
    assert table.last.status is Status.CANCELLED


def test_schemas_are_documented(build: Build, served: Rig) -> None:
    rig = build()
    document = rig.app.openapi()
    assert {"TextToVideoInput", "ImageToVideoInput", "VideoToVideoInput", "Output", "ImageSize"} <= set(
        document["components"]["schemas"]
    )
    body = document["paths"][RUN]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/TextToVideoInput"}
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


@pytest.mark.parametrize("path", [RUN, f"{RUN}/image-to-video", f"{RUN}/video-to-video"])
def test_examples_can_be_sent(build: Build, path: str) -> None:
    """The server accepts all examples, also images and clips. The test omits `use_rife` and `loras`, which this rig
    lacks."""
    store = build(real_media=True)
    document = store.app.openapi()
    name = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    fields = document["components"]["schemas"][name.rpartition("/")[2]]["properties"]
    usual, other = ({field: schema["examples"][n] for field, schema in fields.items()} for n in (0, 1))
    assert store.client.post(path, json=usual).status_code == 200
    for refused in ("use_rife", "loras"):
        answer = store.client.post(path, json=other)
        assert (answer.status_code, answer.json()["detail"][0]["loc"][1]) == (422, refused)
        other[refused] = usual[refused]
    assert store.client.post(path, json=other).status_code == 200
    assert all(other[field] != usual[field] for field in fields if field not in ("loras", "use_rife"))
