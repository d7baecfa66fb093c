"""In every cloud's API, a repeated call with the same Idempotency-Key creates no second job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from pipelines.request import GenerationRequest
from server.facades.kit.waiting import finished_or_dropped
from server.jobs.job import Status
from server.jobs.order import Order
from tests.rigs.facade_rig import Rig, facade
from tests.rigs.pictures import picture

PROMPT = "a red circle moves left"
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "fal": ("/queue/fal-ai/cogvideox-5b", {"prompt": PROMPT}),
    "segmind": ("/v2/cog-video-5b-t2v", {"prompt": PROMPT}),
    "zhipu": ("/api/paas/v4/videos/generations", {"model": "cogvideox-3", "prompt": PROMPT}),
    "modelslab": ("/api/v6/video/text2video", {"model_id": "cogvideox", "prompt": PROMPT, "instant_response": True}),
    "openai": ("/v1/videos", {"prompt": PROMPT}),
    "replicate": ("/v1/models/cuuupid/cogvideox-5b/predictions", {"input": {"prompt": PROMPT}}),
    "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b", {"inputs": PROMPT}),
}
HEADER = "idempotency-key"


def other(body: dict[str, Any]) -> dict[str, Any]:
    text = {"inputs": "another", "prompt": "another"}
    return {name: other(v) if isinstance(v, dict) else text.get(name, v) for name, v in body.items()}


def id_in(vendor: str, answer: Any) -> str:
    if vendor == "huggingface":
        return str(answer.headers["x-request-id"])
    return str(answer.json()["request_id" if vendor in ("fal", "segmind") else "id"])


def made(rig: Rig, vendor: str) -> list[str]:
    return [job.id for job in rig.store.page(vendor, "", 99)]


@pytest.mark.parametrize("vendor", CALLS)
def test_repeated_calls(vendor: str) -> None:
    path, body = CALLS[vendor]
    with facade(vendor, modelslab_status="real") as rig, TestClient(rig.app) as client:

        def send(sent: dict[str, Any], name: str, **more: str) -> Any:
            return client.post(path, json=sent, headers={HEADER: name, **more})

        first, again = send(body, "one"), send(body, " one ")
        assert first.status_code == again.status_code < 300, first.text
        assert len(made(rig, vendor)) == 1
        assert id_in(vendor, first) == id_in(vendor, again) != ""
        conflict = send(other(body), "one")
        assert 400 <= conflict.status_code < 500 and "Idempotency-Key" in conflict.text, conflict.text
        assert conflict.status_code not in (408, 409, 429), "clients would retry it"
        for wrong in ("x" * 256, "a\tb"):
            refused = send(body, wrong)
            assert 400 <= refused.status_code < 500, refused.text
            assert "Idempotency-Key" in refused.text and "255" in refused.text
        assert len(made(rig, vendor)) == 1
        assert send(other(body), "x" * 255).status_code == first.status_code
        assert client.post(path, json=body).status_code == client.post(path, json=body).status_code < 300
        assert len(made(rig, vendor)) == 4


def test_a_deadline_is_no_other_call() -> None:
    path, body = CALLS["replicate"]
    with facade("replicate") as rig, TestClient(rig.app) as client:
        headers = {HEADER: "one", "cancel-after": "1h"}
        first, again = (client.post(path, json=body, headers=headers).json() for _ in range(2))
        assert (first["id"], first["deadline"]) == (again["id"], again["deadline"])


def test_how_it_is_to_be_answered_is_no_other_call() -> None:
    path, body = CALLS["replicate"]
    with facade("replicate") as rig, TestClient(rig.app) as client:
        ways = ({"prefer": "wait"}, {}, {"prefer": "wait=5", "user-agent": "curl/8"})
        said = {HEADER: "one", "user-agent": "replicate-python/1.0.7"}
        answers = [client.post(path, json=body, headers={**said, **way}).json() for way in ways]
        assert len({answer["id"] for answer in answers}) == 1
        kinds = [answer["output"].partition(":")[0] for answer in answers]
        assert kinds == ["data", "data", "http"], "the client that created it and waited gets the same answer again"


def test_a_request_id_may_come_again_under_one_key() -> None:
    path, body = CALLS["zhipu"]
    with facade("zhipu") as rig, TestClient(rig.app) as client:
        named = {**body, "request_id": "mine-123"}
        first, again = (client.post(path, json=named, headers={HEADER: "one"}).json() for _ in range(2))
        assert first == again and first["request_id"] == "mine-123"
        first, again = (client.post(path, json=body, headers={HEADER: "two"}).json() for _ in range(2))
        assert first == again


def test_another_picture_is_another_call() -> None:
    """A body that is only an image has an empty payload, so the server must compare the image itself."""
    path = "/hf-inference/models/zai-org/CogVideoX-5b-I2V"
    with facade("huggingface") as rig, TestClient(rig.app) as client:
        answers = [
            client.post(path, content=picture(size=(side, side)), headers={HEADER: "one"}) for side in (64, 64, 80)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 422]
        assert len(made(rig, "huggingface")) == 1


@pytest.mark.parametrize(("name", "after"), [(None, Status.CANCELLED), ("one", Status.QUEUED)])
def test_a_caller_who_can_come_again_cancels_nothing_by_hanging_up(name: str | None, after: Status) -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with facade("fal") as rig:
        rig.hold()
        jobs = rig.context.jobs
        job = jobs.submit(GenerationRequest("p"), Order("fal", "e", "", idempotency=name))
        request = Request({"type": "http"}, gone)
        assert asyncio.run(finished_or_dropped(request, jobs, job, one_shot=True)) is None
        assert rig.table[job.id].status is after
