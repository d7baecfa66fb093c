"""The page at `/docs`: built from local files only, with a content security policy that allows no other scripts."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse

OPENAPI = "/openapi.json"
STATIC = "/static-offline-docs"  # where fastapi-offline serves Swagger UI
INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
MARKUP = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger UI styles its elements one by one, and draws its icons from data: URIs
OWN = "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'"


def add_docs(app: FastAPI, base_url: Callable[[Request], str]) -> None:
    """`base_url` returns the server's URL for the client. The page's own links are relative, because a proxy may
    publish it below any path without telling us."""
    (plain,) = [route for route in app.router.routes if getattr(route, "path", "") == app.openapi_url]
    app.router.routes.remove(plain)

    @app.get(OPENAPI, include_in_schema=False)
    def openapi(request: Request) -> JSONResponse:
        below = urlsplit(base_url(request)).path.rstrip("/")
        return JSONResponse({**app.openapi(), "servers": [{"url": below}]} if below else app.openapi())

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        root = ".." if request.scope.get("raw_path", b"").endswith(b"/") else "."
        page = get_swagger_ui_html(
            openapi_url=f"{root}{OPENAPI}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{root}{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{root}{STATIC}/favicon.png",
        )
        hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in INLINE.findall(bytes(page.body)))
        page.headers["content-security-policy"] = f"{NOTHING}; script-src 'self' {hashes}; {OWN}"
        return page


def _sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def protect(headers: MutableHeaders) -> None:
    """Adds headers that forbid content sniffing and referrers, and a content security policy to markup."""
    headers.setdefault("x-content-type-options", "nosniff")
    headers.setdefault("referrer-policy", "no-referrer")
    if headers.get("content-type", "").partition(";")[0].strip().lower() in MARKUP:
        headers.setdefault("content-security-policy", NOTHING)
        headers.setdefault("x-frame-options", "DENY")
