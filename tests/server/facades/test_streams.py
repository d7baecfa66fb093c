"""If a key has too many streams or waiting calls, the server refuses the next one in the cloud's format or answers it
without waiting."""

from __future__ import annotations

from contextlib import ExitStack

from fastapi.testclient import TestClient

from tests.rigs.facade_rig import Rig, facade

FULL = "as many as may be at a time"


def fill(rig: Rig, held: ExitStack) -> str:
    """Takes all places of the only key; returns the key's owner."""
    (owner,) = rig.context.keys.owners
    jobs = rig.context.jobs
    for shares, most in ((jobs.streams, 50), (jobs.waits, 200)):
        for _ in range(most):
            held.enter_context(shares.held(owner))
    return owner


def test_fal() -> None:
    with facade("fal", keys="a:1") as rig, TestClient(rig.app) as client, ExitStack() as held:
        client.headers["authorization"] = "Key a:1"
        made = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": "p"}).json()
        assert client.get(f"{made['status_url']}/stream").status_code == 200
        fill(rig, held)
        for answer in (
            client.get(f"{made['status_url']}/stream"),
            client.post("/run/fal-ai/cogvideox-5b", json={"prompt": "p"}),
        ):
            assert answer.status_code == 429 and FULL in answer.json()["detail"] and answer.headers["retry-after"]


def test_replicate() -> None:
    with facade("replicate", keys="a:1") as rig, TestClient(rig.app) as client, ExitStack() as held:
        client.headers["authorization"] = "Bearer a:1"
        body = {"input": {"prompt": "p"}}
        made = client.post("/v1/models/cuuupid/cogvideox-5b/predictions", json=body).json()
        assert "event: done" in client.get(made["urls"]["stream"]).text
        fill(rig, held)
        answer = client.get(made["urls"]["stream"])
        assert answer.status_code == 429 and FULL in answer.json()["detail"]
        rig.hold()
        wait = {"prefer": "wait=60"}  # with a free place, this call would take a minute
        answer = client.post("/v1/models/cuuupid/cogvideox-5b/predictions", json=body, headers=wait)
        assert answer.status_code == 201 and answer.json()["status"] in ("starting", "processing")


def test_the_others() -> None:
    calls = {
        "segmind": ("/v1/cog-video-5b-t2v", {"prompt": "p"}, 429),
        "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b", {"inputs": "p"}, 503),
        "openai": ("/v1/videos/sync", {"prompt": "p"}, 429),
    }
    for name, (path, body, status) in calls.items():
        with facade(name, keys="a:1") as rig, TestClient(rig.app) as client, ExitStack() as held:
            client.headers.update({"authorization": "Bearer a:1", "x-api-key": "a:1"})
            fill(rig, held)
            answer = client.post(path, json=body)
            assert answer.status_code == status and FULL in answer.text, (name, answer.text)
            assert not rig.jobs(), "a refused waiting call must not create a job"


def test_modelslab_answers_at_once() -> None:
    with facade("modelslab", keys="a:1") as rig, TestClient(rig.app) as client, ExitStack() as held:
        fill(rig, held)
        rig.hold()
        body = {"key": "a:1", "model_id": "cogvideox", "prompt": "p"}
        assert client.post("/api/v6/video/text2video", json=body).json()["status"] == "processing"
