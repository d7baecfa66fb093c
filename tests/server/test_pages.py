"""In a real browser, cross-origin pages can make the calls that docs/operations.md allows, and get nothing without the
key."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.browser import needs_browser, shown
from tests.rigs.house import app, house_of
from tests.rigs.live import live

pytestmark = [pytest.mark.slow, needs_browser]

# each call is a list of name, path and options of fetch; the page shows the answers as JSON
PAGE = """<!doctype html><pre id=found></pre><script>
const found = {};
const calls = CALLS.map(async ([name, path, given]) => {
  try {
    const answer = await fetch(path, given);
    found[name] = [answer.status, Object.fromEntries(answer.headers), await answer.text()];
  } catch (error) { found[name] = String(error); }
});
Promise.all(calls).then(() => { document.getElementById("found").textContent = JSON.stringify(found); });
</script>"""


@contextmanager
def site(calls: list[Any]) -> Iterator[int]:
    """Serves another site, whose only page makes these calls."""
    page = PAGE.replace("CALLS", json.dumps(calls)).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(calls: list[Any], tmp_path: Path) -> dict[str, Any]:
    """Returns the answers that a page of studio.example gets to these calls."""
    with site(calls) as port:
        rules = "--host-resolver-rules=MAP studio.example 127.0.0.1, MAP rebound.example 127.0.0.1"
        page, log = shown(f"http://studio.example:{port}/", tmp_path / "profile", rules)
    found = re.search(r'<pre id="found">(.+?)</pre>', page, re.DOTALL)
    assert found, (page[-500:], log[-2000:])
    answers: dict[str, Any] = json.loads(html.unescape(found[1]))
    return answers


def post(key: str = "") -> dict[str, Any]:
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    return {"method": "POST", "headers": headers, "body": json.dumps({"prompt": "steps=1 of a page"})}


def test_any_page_may_use_an_open_server(tmp_path: Path) -> None:
    made = app(tmp_path)
    file = house_of(made).context.artifacts.put("a.mp4", "video/mp4", b"0123456789")
    with live(made) as port:
        base = f"http://127.0.0.1:{port}"
        ranged = {"headers": {"range": "bytes=2-3"}}
        found = asked(
            [
                ["health", f"{base}/health", {}],
                ["made", f"{base}/v1/videos", post("any")],
                ["queued", f"{base}/queue/fal-ai/cogvideox-5b", post()],
                ["part", f"{base}/files/{file.key}/a.mp4", ranged],
                ["missing", f"{base}/nowhere", {}],
                ["wrong", f"{base}/v1/videos", {**post(), "body": "{"}],
                ["put", f"{base}/health", {"method": "PUT", "body": "x"}],
            ],
            tmp_path,
        )
    statuses = {name: answer[0] for name, answer in found.items()}
    expected = {"health": 200, "made": 200, "queued": 200, "part": 206, "missing": 404, "wrong": 400, "put": 405}
    assert statuses == expected, found
    assert json.loads(found["made"][2])["prompt"] == "steps=1 of a page"
    assert found["queued"][1]["x-fal-request-id"] and "x-cogvideox-model" in found["health"][1]
    assert found["part"][2] == "23" and found["part"][1]["content-range"] == "bytes 2-3/10"
    assert found["part"][1]["etag"]


def test_a_page_without_the_key_gets_nothing(tmp_path: Path) -> None:
    """A page without the key gets nothing, whatever host name the page uses for the server."""
    made = app(tmp_path, api_keys="id:secret")
    with live(made) as port:
        base, rebound = f"http://127.0.0.1:{port}", f"http://rebound.example:{port}"
        cookies = {**post(), "credentials": "include"}
        calls = [["none", f"{base}/v1/videos", post()], ["list", f"{base}/v1/videos", {}]]
        calls += [["wrong", f"{base}/v1/videos", post("id:guess")], ["right", f"{base}/v1/videos", post("id:secret")]]
        calls += [["rebound", f"{rebound}/v1/videos", post()], ["cookies", f"{base}/v1/videos", cookies]]
        found = asked(calls, tmp_path)
    assert {name: found[name][0] for name in ("none", "list", "wrong", "rebound", "right")} == {
        **dict.fromkeys(("none", "list", "wrong", "rebound"), 401),
        "right": 200,
    }, found
    assert "API key" in found["none"][2], "the page can read the reason"
    assert isinstance(found["cookies"], str), "the server never accepts the browser's own credentials"
