"""LoRA files whose headers take very long to parse, sent by one key while another key works normally."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.rigs.attacks.lora_headers import lora, of_bytes
from tests.rigs.attacks.rig import ATTACKER, Target, attacked
from weights import safetensors_header

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
APP = "queue/fal-ai/cogvideox-5b"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("server")) as running:
        yield running


def one(**more: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **more}}


def alphas() -> bytes:
    patterns = ",".join(f'"x{n}":1' for n in range(400_000))
    meta = {"lora_adapter_metadata": '{"lora_alpha":1,"alpha_pattern":{' + patterns + "}}"}
    return lora({"__metadata__": meta, **one()})


HOSTILE: dict[str, Callable[[], bytes]] = {
    "dimensions whose product has millions of digits": lambda: lora(one(shape=[2**61] * 300_000)),
    "half a million tensors": lambda: of_bytes(500_000, "t{}"),
    "as many tensors as are read": lambda: of_bytes(safetensors_header.TENSORS, "transformer.a{}.lora_A.weight"),
    "names of prefixes": lambda: of_bytes(10, "model." * 100_000 + "{}"),
    "numbers of thousands of digits": lambda: lora(b'{"a":{"shape":[' + b",".join([b"9" * 4000] * 1900) + b"]}}"),
    "nested lists": lambda: lora(b'{"__metadata__":' + b"[" * 4_000_000 + b"]" * 3_900_000 + b"}"),
    "flat lists": lambda: lora(b'{"a":[' + b"[]," * 2_700_000 + b"1]}"),
    "patterns of alphas": alphas,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nobody_else_waits(target: Target, name: str) -> None:
    uri = f"data:application/octet-stream;base64,{base64.b64encode(HOSTILE[name]()).decode()}"
    body = json.dumps({"prompt": "steps=1 sleep=0", "loras": [{"path": uri}]}).encode()
    with target.bystander("images") as seen, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(target, body), range(4)))
    assert [answer.status_code for answer in answers] == [422] * 4, answers[0].text[:300]
    assert answers[0].json()["detail"][0]["loc"][:2] == ["body", "loras"], answers[0].text[:300]
    assert seen.images
    target.assert_unnoticed(seen)


def test_it_is_over_afterwards(target: Target) -> None:
    target.assert_memory_returns()
    target.assert_stops()


def send(target: Target, body: bytes) -> requests.Response:
    """The response to fal's result call for a job with this body."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["authorization"] = f"Key {ATTACKER}"
        sent = session.post(f"{target.url}/{APP}", data=body, timeout=300)
        return session.get(f"{target.url}/{APP}/requests/{sent.json()['request_id']}", timeout=300)
