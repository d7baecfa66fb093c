"""The server adapts its answers to Vercel's AI SDK. This SDK refuses private URLs, and sends its key to only one
host."""

from __future__ import annotations

from base64 import b64decode

import pytest

from server.facades.ai_sdk import is_private
from tests.rigs.facade_rig import Build
from tests.rigs.facades.fal import APP, QUEUE
from tests.rigs.job_table import VIDEO

AGENTS = ("ai/7.0.173 ai-sdk/provider-utils/5.0.81 runtime/node.js/24", "ai-sdk/fal/3.0.41")


@pytest.mark.parametrize(
    ("base", "private"),
    [
        *((f"http://{host}", True) for host in ("LOCALHOST.", "a.localhost", "box.lan", "box.internal", "0.0.0.0")),
        *((f"http://{host}:80", True) for host in ("[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]", "100.64.0.1")),
        *((f"https://{host}", False) for host in ("example.org", "local.example.org", "[2606:4700::1111]", "8.8.8.8")),
        *((f"http://{host}", False) for host in ("[", "[[]", "[::1", "a]b")),
    ],
)
def test_private_addresses(base: str, private: bool) -> None:
    assert is_private(base) is private


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(("base", "is_data"), [("http://127.0.0.1:8000", True), ("https://video.example.org", False)])
def test_fals_video_itself_where_its_address_is_private(build: Build, agent: str, base: str, is_data: bool) -> None:
    client = build("fal").client
    said = {"user-agent": agent}
    request_id = client.post(f"{base}{QUEUE}", json={"prompt": "a"}, headers=said).json()["request_id"]
    ran = client.post(f"{base}/run{APP}", json={"prompt": "a"}, headers=said).json()
    for result in (client.get(f"{base}{QUEUE}/requests/{request_id}", headers=said).json(), ran):
        url = result["video"]["url"]
        assert url.startswith("data:video/mp4;base64," if is_data else f"{base}/files/")
        if is_data:
            assert b64decode(url.partition(",")[2]) == VIDEO
        assert result["video"]["file_size"] == len(VIDEO)
    for other in ("fal-client/1.0", "python-httpx/0.28.1"):
        result = client.get(f"{base}{QUEUE}/requests/{request_id}", headers={"user-agent": other}).json()
        assert result["video"]["url"].startswith(f"{base}/files/")


@pytest.mark.parametrize("public_url", [None, "https://video.example.org"])
def test_it_asks_for_fals_own_addresses(build: Build, public_url: str | None) -> None:
    """The SDK's fal provider calls fal's URLs; a program redirects the calls to this server with its own `fetch`."""
    client = build("fal", public_url=public_url).client
    receipt = client.post(QUEUE, json={"prompt": "a"}, headers={"user-agent": AGENTS[0]}).json()
    here = f"https://queue.fal.run{APP}/requests/{receipt['request_id']}"
    assert (receipt["response_url"], receipt["status_url"]) == (here, f"{here}/status")
