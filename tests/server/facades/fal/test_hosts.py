"""fal's façade under every host name and path, with and without a key, and from browsers."""

from __future__ import annotations

import pytest

from tests.rigs.facade_rig import HERE, Build, Rig
from tests.rigs.facades.fal import APP, QUEUE, RUN

ASKED = (
    *("authorization", "content-type", "x-fal-target-url", "x-fal-queue-priority", "x-fal-request-timeout"),
    *("x-fal-runner-hint", "x-fal-object-lifecycle", "x-fal-object-lifecycle-preference", "x-fal-file-name"),
    *("x-fal-store-io", "x-fal-no-retry", "x-app-fal-disable-fallback"),
)


def test_keys(build: Build) -> None:
    client = build(keys="id.secret").client
    nobody = client.post(RUN, json={"prompt": "a"})
    assert nobody.status_code == 401
    assert nobody.json()["detail"] == (
        'Cannot access application "fal-ai/cogvideox-5b". Authentication is required to access this application.'
    )
    for path in (f"{QUEUE}/requests/x/status", RUN, "/run/fal-ai/other"):
        wrong = client.get(path, headers={"authorization": "Key no:no"})
        assert (wrong.status_code, wrong.json()["detail"]) == (401, "invalid key credentials")
    assert client.post(RUN, json={"prompt": "a"}, headers={"authorization": "Key id:secret"}).status_code == 200


@pytest.mark.parametrize(
    ("url", "headers", "base"),
    [
        (f"http://here{QUEUE}", {}, "http://here/queue"),
        (f"http://here/fal{QUEUE}/", {}, "http://here/fal/queue"),
        (f"http://queue.here{APP}", {}, "http://queue.here"),
        (f"http://here{APP}?fal_webhook=http%3A%2F%2Fx", {}, "http://here"),
        (f"http://here{APP}", {"x-fal-queue-priority": "low"}, "http://here"),
        (f"http://here/queue{QUEUE}", {}, "http://here/queue"),
        (f"http://here/queue/queue/{QUEUE}/", {}, "http://here/queue"),
        (f"http://here/run{QUEUE}", {}, "http://here/queue"),
        (f"http://here/fal/queue/fal{QUEUE}", {}, "http://here/fal/queue"),
    ],
)
def test_ways_to_the_queue(served: Rig, url: str, headers: dict[str, str], base: str) -> None:
    """The URLs in the receipt lead back to the request, whatever URL the client has used to submit it."""
    client, table = served.client, served.table
    receipt = client.post(url, json={"prompt": "a"}, headers=headers, follow_redirects=False)
    assert receipt.status_code == 200
    assert receipt.json()["status_url"] == f"{base}{APP}/requests/{table.last.id}/status"
    assert client.get(receipt.json()["status_url"]).json()["status"] == "COMPLETED"
    assert client.get(receipt.json()["response_url"]).json()["prompt"] == "a"


@pytest.mark.parametrize("route", ["/fal/proxy", "/api/fal/proxy/"])
@pytest.mark.parametrize("public_url", [None, "https://films.example.org"])
def test_the_proxys_clients_get_fals_own_addresses(build: Build, route: str, public_url: str | None) -> None:
    """Some clients send the key only to the first URL's host. All clients send calls of fal's own URLs through the
    proxy."""
    rig = build(public_url=public_url)
    client, table = rig.client, rig.table
    target = f"https://queue.fal.run{APP}"
    receipt = client.post(route, json={"prompt": "a"}, headers={"x-fal-target-url": target}).json()
    here = f"{target}/requests/{table.last.id}"
    links = {"response_url": here, "status_url": f"{here}/status", "cancel_url": f"{here}/cancel"}
    assert links.items() <= receipt.items()
    status = client.get(route, headers={"x-fal-target-url": receipt["status_url"]}).json()
    assert status["status"] == "COMPLETED" and links.items() <= status.items()
    result = client.get(route, headers={"x-fal-target-url": receipt["response_url"]}).json()
    assert result["video"]["url"].startswith(f"{public_url or HERE}/files/"), "files are fetched from this server"
    stream = client.get(route, headers={"x-fal-target-url": f"{here}/status/stream"})
    assert f'"response_url": "{here}"' in stream.text


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (f"http://here{RUN}/", {}),
        (f"http://here/run{RUN}", {}),
        (f"http://here/queue{RUN}", {}),
        (f"http://here/run/{APP}", {}),
        (f"http://fal.run{APP}", {}),
        ("http://here/fal/proxy", {"x-fal-target-url": f"https://fal.run{APP}"}),
    ],
)
def test_ways_to_run(served: Rig, url: str, headers: dict[str, str]) -> None:
    answer = served.client.post(url, json={"prompt": "a"}, headers=headers, follow_redirects=False)
    assert answer.json()["prompt"] == "a"


def test_proxy(served: Rig) -> None:
    client = served.client
    for target in ("", "nowhere", "https://["):
        answer = client.post("/fal/proxy", headers={"x-fal-target-url": target})
        assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")
    target = f"https://fal.run{APP}?prompt=hi&num_inference_steps=3"
    assert client.get("/fal/proxy", headers={"x-fal-target-url": target}).json()["prompt"] == "hi"
    target = "https://rest.fal.ai/nothing/here"
    answer = client.post("/fal/proxy", headers={"x-fal-target-url": target})
    assert (answer.status_code, answer.json()["detail"]) == (404, "Path /nothing/here not found")


def test_public_url_wins_over_host(build: Build) -> None:
    client = build(public_url="https://films.example.org").client
    receipt = client.post(f"http://queue.here{APP}", json={"prompt": "a"}).json()
    assert f"/queue{APP}/requests/" in receipt["status_url"]


def test_browsers(served: Rig) -> None:
    client = served.client
    asked = {
        "origin": "http://page",
        "access-control-request-method": "POST",
        "access-control-request-headers": ", ".join(ASKED),
    }
    for path in (RUN, QUEUE, "/fal/proxy", "/storage/upload/initiate", "/files/upload", "/tokens/"):
        preflight = client.options(path, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert set(ASKED) <= {name.strip() for name in allowed.split(",")}
        assert "PUT" in preflight.headers["access-control-allow-methods"]
    answer = client.post(RUN, json={}, headers={"origin": "http://page"})
    assert answer.headers["access-control-allow-origin"] == "*"
    shown = answer.headers["access-control-expose-headers"]
    assert {name for name in answer.headers if name.startswith("x-fal-")} <= {name.strip() for name in shown.split(",")}
    for name in ("x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type", "x-fal-retryable"):
        assert name in shown


def test_a_page_without_a_key(build: Build) -> None:
    """The preflight of a browser has no key and must succeed, and the page must be able to read a refusal."""
    client = build(keys="id.secret").client
    asked = {"origin": "http://page", "access-control-request-method": "POST"}
    assert client.options("/storage/upload/initiate", headers=asked).status_code == 200
    refused = client.post(RUN, json={}, headers={"origin": "http://page"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
