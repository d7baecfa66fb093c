"""fal's webhooks: the jobs that have a webhook, the body that it receives, and the signature."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.exceptions import InvalidSignature
from fastapi.testclient import TestClient

from server.jobs.job import EVENTS, Webhook
from tests.rigs.ear import Ear
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.fal import APP, QUEUE, RUN, verify
from tests.rigs.house import app, until
from tests.rigs.job_table import fail, hold

HOOK = "http://example.org/hook?a=1&b=%20x"


def test_who_is_told(served: Rig) -> None:
    client, table = served.client, served.table
    client.post(f"{QUEUE}?fal_webhook={quote(HOOK, safe='')}", json={"prompt": "a"})
    assert table.last.webhook == Webhook(HOOK, "http://here:8000")
    client.post(f"{QUEUE}?fal_webhook={quote(HOOK, safe='')}", json={})  # a refused request has a webhook too
    assert table.last.webhook == Webhook(HOOK, "http://here:8000") and table.last.error is not None
    client.post(f"{QUEUE}?fal_webhook=", json={"prompt": "a"})
    assert table.last.webhook is None
    target = f"https://queue.fal.run{APP}?fal_webhook={quote(HOOK, safe='')}"
    client.post("/fal/proxy", json={"prompt": "a"}, headers={"x-fal-target-url": target})
    assert table.last.webhook == Webhook(HOOK, "http://here:8000")
    client.post(f"{RUN}?fal_webhook={quote(HOOK, safe='')}", json={"prompt": "a"})
    assert table.last.webhook is None, "fal.run has no webhooks"


@pytest.mark.parametrize(
    "url",
    [
        "x",
        "ftp://a/b",
        "http://",
        "http://a:99999/",
        "https:///x",
        "http://[",
        "http://a/ b",
        "http://a/\0",
        "h" * 9000,
    ],
)
def test_who_cannot_be_told(served: Rig, url: str) -> None:
    client, table = served.client, served.table
    answer = client.post(f"{QUEUE}?fal_webhook={quote(url, safe='')}", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")
    assert "fal_webhook" in answer.json()["detail"]
    assert not table.jobs


def letters(rig: Rig) -> list[dict[str, Any]]:
    """Returns the webhook bodies of the newest job."""
    written = [rig.letter(rig.table.last, event) for event in EVENTS]
    return [json.loads(letter.body) for letter in written if letter is not None]


def test_what_is_told(served: Rig) -> None:
    """When a job has ended, its webhook receives one request with the answer of the job's result URL."""
    client, table = served.client, served.table
    url = f"{QUEUE}?fal_webhook={quote(HOOK, safe='')}"
    ends = ((None, "OK"), (fail("internal"), "ERROR"), (fail("bad_output"), "ERROR"), (hold, "ERROR"))
    for end, word in ends:
        if end is not None:
            table.end = end
        receipt = client.post(url, json={"prompt": "a"}).json()
        if end is hold:
            client.put(receipt["cancel_url"])
        result = client.get(receipt["response_url"])
        (told,) = letters(served)
        assert list(told) == ["request_id", "gateway_request_id", "status", "error", "payload"]
        assert told["request_id"] == told["gateway_request_id"] == receipt["request_id"]
        assert (told["status"], told["payload"]) == (word, result.json())
        assert told["error"] == (None if word == "OK" else f"Invalid status code: {result.status_code}")
    table.end = hold
    receipt = client.post(url, json={"prompt": "a", "seed": "x"}).json()
    (told,) = letters(served)
    assert (told["status"], told["error"]) == ("ERROR", "Invalid status code: 422")
    assert told["payload"]["detail"][0]["loc"] == ["body", "seed"]
    client.post(QUEUE, json={"prompt": "a"})
    assert letters(served) == []


@pytest.mark.parametrize("keys", ["", "id:secret"])
def test_signature(build: Build, keys: str) -> None:
    rig = build(keys=keys)
    table = rig.table
    client = rig.client
    headers = {"authorization": "Key id:secret"}
    client.post(f"{QUEUE}?fal_webhook={quote(HOOK, safe='')}", json={"prompt": "ä"}, headers=headers)
    jwks = client.get("/.well-known/jwks.json")
    assert jwks.status_code == 200, "needs no key"
    letter = rig.letter(table.last, "completed")
    assert letter is not None
    signed = dict(letter.sign(letter.body, 1_800_000_000.9, 1))
    assert signed["content-type"] == "application/json"
    assert signed["x-fal-webhook-timestamp"] == "1800000000"
    assert signed["x-fal-webhook-user-id"] == (table.last.owner or "local")
    assert signed["x-fal-webhook-signature"] == signed["x-fal-webhook-signature"].lower()
    verify(jwks.json(), signed, letter.body)
    for changed in (
        {**signed, "x-fal-webhook-timestamp": "1800000001"},
        {**signed, "x-fal-webhook-request-id": "other"},
        {**signed, "x-fal-webhook-user-id": "other"},
    ):
        with pytest.raises(InvalidSignature):
            verify(jwks.json(), changed, letter.body)
    with pytest.raises(InvalidSignature):
        verify(jwks.json(), signed, letter.body + b" ")


def test_keys_are_published_as_verifiers_read_them(served: Rig) -> None:
    """The key's `x` has base64 padding, because fal's own Python sample decodes it without adding any."""
    (key,) = served.client.get("/.well-known/jwks.json").json()["keys"]
    assert {"kty": "OKP", "crv": "Ed25519", "use": "sig"}.items() <= key.items()
    assert len(base64.urlsafe_b64decode(key["x"])) == 32 and key["kid"]


def test_a_whole_server_tells(tmp_path: Path, ear: Ear) -> None:
    with TestClient(app(tmp_path, allow_private_urls=True)) as client:
        url = f"{QUEUE}?fal_webhook={quote(ear.url, safe='')}"
        done = client.post(url, json={"prompt": "steps=2"}).json()
        until(lambda: len(ear.heard) == 1)
        refused = client.post(url, json={"prompt": "a", "export_fps": 99}).json()
        until(lambda: len(ear.heard) == 2)
        jwks = client.get("/.well-known/jwks.json").json()
    (headers, told), (_, refusal) = ear.heard
    assert (told["request_id"], told["status"], told["error"]) == (done["request_id"], "OK", None)
    assert told["payload"]["video"]["url"].startswith("http://testserver/files/")
    verify(jwks, headers, json.dumps(told).encode())
    assert (refusal["request_id"], refusal["status"]) == (refused["request_id"], "ERROR")
    assert refusal["payload"]["detail"][0]["type"] == "less_than_equal"
