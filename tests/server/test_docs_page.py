"""The content security policy of `/docs` and of all other answers that a browser would show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from server.docs import NOTHING
from server.middleware import Labelled
from tests.rigs.browser import needs_browser, shown
from tests.rigs.house import app
from tests.rigs.live import live


def test_the_page_runs_its_own_scripts_and_no_others(tmp_path: Path) -> None:
    with TestClient(app(tmp_path)) as client:
        page = client.get("/docs")
        policy = page.headers["content-security-policy"]
        assert policy.startswith(f"{NOTHING}; script-src 'self' 'sha256-")
        assert "frame-ancestors 'none'" in policy and "unsafe-eval" not in policy
        assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
        assert page.headers["x-frame-options"] == "DENY"
        for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert client.get(asset).headers["x-content-type-options"] == "nosniff"


def test_markup_that_names_no_policy_gets_one_that_allows_nothing() -> None:
    pages = {
        "/html": HTMLResponse("<script>1</script>"),
        "/svg": Response("<svg/>", media_type="image/svg+xml"),
        "/own": HTMLResponse("", headers={"content-security-policy": "default-src 'self'"}),
        "/text": PlainTextResponse("<b>"),
    }
    client = TestClient(
        Labelled(Starlette(routes=[Route(path, page) for path, page in pages.items()]), lambda models: "m")
    )
    for path in ("/html", "/svg"):
        assert client.get(path).headers["content-security-policy"] == NOTHING
        assert client.get(path).headers["x-frame-options"] == "DENY"
    assert client.get("/own").headers["content-security-policy"] == "default-src 'self'"
    text = client.get("/text").headers
    assert "content-security-policy" not in text and text["x-content-type-options"] == "nosniff"
    assert text["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["page.html", "page.svg", "page.xhtml", "page.js", "page", "page.html.png"])
@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "image/png"])
def test_an_uploaded_file_never_acts_as_a_page(tmp_path: Path, name: str, kind: str) -> None:
    with TestClient(app(tmp_path)) as client:
        headers = {"content-type": kind, "x-fal-file-name": name}
        put = client.post("/fal/files/upload", content=b"<script>alert(1)</script>", headers=headers)
        url = put.json()["access_url"]
        for address in (url, url.replace("/fal/", "/")):
            file = client.get(address)
            assert file.status_code == 200 and file.headers["x-content-type-options"] == "nosniff"
            shown = file.headers["content-type"] in ("image/png", "image/jpeg", "image/gif")
            assert shown or file.headers["content-disposition"].startswith("attachment")
            assert not re.search("html|xml|script", file.headers["content-type"])


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    with live(app(tmp_path)) as port:
        page, log = shown(f"http://127.0.0.1:{port}/docs", tmp_path / "profile")
    assert "/v1/videos" in page and "opblock" in page, page[-500:]
    assert "Content Security Policy" not in log
