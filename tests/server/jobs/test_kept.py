"""The job table keeps only a part of each request. The size of this part is limited, whatever the client sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.facades.fal import errors
from server.facades.kit.complaints import MAX_PROMPT
from server.facades.kit.fields import KEPT, kept
from server.facades.kit.samples import RED
from server.limits.room import RoomLimits
from tests.rigs.facade_rig import facade

MIB = 2**20
QUEUE = "/queue/fal-ai/cogvideox-5b"
BULKY: dict[str, Any] = {
    "nested lists of long texts": [[["x" * 15_000] * 100] * 100] * 100,
    "an object of long names": {"n" * 10_000 + str(number): "v" * 15_000 for number in range(100)},
    "a megabyte": "x" * MIB,
    "many texts": ["x" * 15_000] * 100_000,
    "many numbers": list(range(100_000)),
    "wide characters": "\u4e2d" * MAX_PROMPT,
}


@pytest.mark.parametrize("value", BULKY.values(), ids=list(BULKY))
def test_little_is_kept(value: Any) -> None:
    fields = {"prompt": value, "more": value, "n" * MIB: value}
    assert len(json.dumps(kept(fields, fields), ensure_ascii=False)) < 2 * KEPT


def test_a_usual_request_is_kept_whole() -> None:
    fields = {
        "prompt": "a" * MAX_PROMPT,
        "negative_prompt": "b" * MAX_PROMPT,
        "seed": 7,
        "video_size": {"width": 720, "height": 480},
        "loras": [{"path": "https://example.org/a.safetensors", "scale": 0.5}] * 8,
        "use_rife": False,
    }
    assert kept(fields, fields) == fields


REFUSED: dict[str, Any] = {
    "nested": {"prompt": "x", "seed": "no", "loras": [[["x" * 15_000] * 12] * 20]},
    "many entries": {"prompt": 5, "loras": [{"path": 7, "scale": "x" * 3000}] * 8, "seed": "x" * 3000},
    "a long LoRA": {"prompt": "a", "loras": [{"path": "y" * 8000}]},
    "a long image": {"prompt": "a", "seed": -1, "image_url": "y" * 4 * MIB},
    "a long prompt": {"prompt": "x" * 4 * MIB},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("endpoint", ["", "/image-to-video"])
def test_of_a_refused_submit_only_the_reason_is_kept(body: dict[str, Any], endpoint: str) -> None:
    with facade("fal") as rig, TestClient(rig.app, base_url="http://here:8000") as client:
        before = rig.data.root.joinpath("jobs.db").stat().st_size
        answers = [client.post(QUEUE + endpoint, json=body) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        result = client.get(answers[0].json()["response_url"])
        assert result.status_code == 422 and result.json()["detail"][0]["msg"]
        (job, *_) = rig.store.page("fal", "", 9)
        assert job.memo == {} and job.error is not None
        assert len(json.dumps(job.error.detail)) <= errors.SMALL and len(job.error.message) < 2000
        grown = sum(path.stat().st_size for path in rig.data.root.rglob("*") if path.is_file()) - before
        assert grown < MIB


IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "fal": ("/run/fal-ai/cogvideox-5b/image-to-video", {"prompt": "a", "image_url": RED}),
    "segmind": ("/v1/cog-video-5b-i2v", {"prompt": "a", "image": RED}),
    "zhipu": ("/api/paas/v4/videos/generations", {"model": "cogvideox-3", "prompt": "a", "image_url": RED}),
    "openai": ("/v1/videos", {"prompt": "a", "input_reference": RED}),
    "replicate": ("/v1/models/thudm/cogvideox-i2v/predictions", {"input": {"prompt": "a", "image": RED}}),
    "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b-I2V", {"inputs": RED}),
}


@pytest.mark.parametrize("vendor", IMAGES)
def test_an_image_beyond_what_the_key_may_bring(vendor: str) -> None:
    path, body = IMAGES[vendor]
    with facade(vendor) as rig, TestClient(rig.app, base_url="http://here:8000") as client:
        assert client.post(path, json=body).is_success
        rig.data.room.limits = RoomLimits(brought_per_key=1)
        answer = client.post(path, json=body)
        assert 400 <= answer.status_code < 500 and "of this key" in answer.text, answer.text
        assert len(list(rig.data.inputs.iterdir())) == 1 and rig.store.counts()["queued"] == 0
