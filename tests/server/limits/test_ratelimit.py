"""The server refuses a client that sends too many requests, in its cloud's format, and still serves the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from server.errors import RateLimited
from server.limits import ratelimit
from server.limits.ratelimit import Limiter
from tests.rigs.house import app, house_of

CALLS: dict[str, tuple[str, str]] = {
    "fal": ("/queue/fal-ai/cogvideox-5b/requests/x/status", "detail"),
    "segmind": ("/v2/requests/x/status", "error"),
    "zhipu": ("/api/paas/v4/async-result/x", "error"),
    "modelslab": ("/api/v6/video/fetch/1", "message"),
    "openai": ("/v1/videos/x", "error"),
    "replicate": ("/v1/predictions/x", "detail"),
    "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b", "error"),
}


@pytest.mark.parametrize("vendor", CALLS)
def test_in_the_vendors_words(vendor: str, tmp_path: Path) -> None:
    path, member = CALLS[vendor]
    served = app(tmp_path, rate_limit="3/minute", modelslab_status="real")
    client = TestClient(served)
    for _ in range(3):
        assert client.get(path).status_code not in (200, 429, 500)
    refused = client.get(path)
    assert refused.status_code == (503 if vendor == "huggingface" else 429) and "3 per 1 minute" in str(
        refused.json()[member]
    )
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert client.get("/health/live").status_code == 200
    house_of(served).close()


def test_each_key_and_each_address(tmp_path: Path) -> None:
    served = app(tmp_path, rate_limit="2/minute", api_keys="a,b,c,d")

    def ask(address: str, key: str) -> int:
        headers: dict[str, Any] = {"x-api-key": key}
        return TestClient(served, client=(address, 1)).get("/v2/requests/x/status", headers=headers).status_code

    assert [ask("1.1.1.1", "a"), ask("2.2.2.2", "a"), ask("3.3.3.3", "a")] == [404, 404, 429], (
        "one key, three addresses"
    )
    assert [ask("4.4.4.4", "b"), ask("4.4.4.4", "c"), ask("4.4.4.4", "d")] == [404, 404, 429], "one address, three keys"
    assert ask("5.5.5.5", "b") == 404
    house_of(served).close()


def test_who_sends_nothing_is_forgotten_and_made_up_keys_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ratelimit, "MOST_CALLERS", 50)
    limiter = Limiter("2/minute", lambda: now[0])

    def ask(address: str, key: str) -> bool:
        headers = [(b"x-api-key", key.encode())]
        try:
            limiter.check(Request({"type": "http", "headers": headers, "client": (address, 1)}))
        except RateLimited as e:
            assert 1 <= e.retry_after <= 60
            return False
        return True

    for n in range(1000):
        assert ask(f"10.0.{n // 250}.{n % 250}", f"key {n}")
    assert len(limiter._seen) <= 52
    assert [ask("10.1.1.1", "a") for _ in range(3)] == [True, True, False]
    now[0] += 61
    assert ask("10.1.1.1", "a") and len(limiter._seen) == 2
    assert ask("2001:db8::1", "b") and ask("2001:db8::2", "c") and not ask("2001:db8::3", "d"), "one network"
