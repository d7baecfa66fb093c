"""The calls that read fal's catalogue: search, prices, OpenAPI documents, pages. These calls need no key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from server.context import Context
from server.facades.fal import catalog
from server.facades.fal.errors import Rejected
from server.facades.fal.models import APP, ENDPOINTS, Endpoint
from server.facades.kit.app import add
from server.facades.kit.body import Json, read_json
from server.facades.kit.openapi import parameter

LONGEST_PAGE = 100
MOST_IDS = 50
EXPANSIONS = ("openapi-3.0", "enterprise_status")
STATUSES = ("active", "deprecated")
I2V = f"{APP}/image-to-video"


def serve(app: FastAPI, context: Context) -> None:
    def base(request: Request) -> str:
        return context.artifacts.base_url(request)

    def models(request: Request) -> Response:
        return Json(_models(request, base(request)))

    def pricing(request: Request) -> Response:
        asked = _ids(request) or list(ENDPOINTS)
        if strangers := [one for one in asked if one not in ENDPOINTS]:
            raise Rejected(404, f"endpoint_id: there is no app {strangers[0][:100]} here; there are {_known()}")
        prices = [catalog.price(one) for one in asked]
        return Json({"prices": prices, "next_cursor": None, "has_more": False})

    async def estimate(request: Request) -> Response:
        asked = await read_json(request)
        kind = asked.get("estimate_type") if isinstance(asked, dict) else None
        if kind not in ("historical_api_price", "unit_price"):
            raise Rejected(400, "estimate_type must be historical_api_price or unit_price")
        return Json({"estimate_type": kind, "total_cost": 0.0, "currency": "USD"})

    def document(request: Request) -> Response:
        asked = _ids(request)
        if len(asked) != 1 or asked[0] not in ENDPOINTS:
            code = 404 if len(asked) == 1 else 400
            raise Rejected(code, f"endpoint_id must name one of the apps here: {_known()}")
        return Json(catalog.openapi(ENDPOINTS[asked[0]], base(request)))

    def schema_of(endpoint: Endpoint) -> Callable[[Request], Response]:
        def schema(request: Request) -> Response:
            return Json(catalog.openapi(endpoint, base(request)))

        return schema

    def page_of(endpoint: Endpoint) -> Callable[[Request], Response]:
        def page(request: Request) -> Response:
            return PlainTextResponse(catalog.llms_txt(endpoint, base(request)))

        return page

    query = [parameter("query", "endpoint_id", APP, I2V)]
    add(app, "GET", "/v1/models", models, "search", {"parameters": [*query, *SEARCH]})
    add(app, "GET", "/v1/models/pricing", pricing, "prices", {"parameters": query})
    add(app, "GET", "/api/openapi/queue/openapi.json", document, "OpenAPI document", {"parameters": query})
    add(app, "POST", "/v1/models/pricing/estimate", estimate, "estimate", shown=False)
    for endpoint in ENDPOINTS.values():
        add(app, "GET", f"/models/{endpoint.id}/llms.txt", page_of(endpoint), "page")
        for surface in ("models", "run", "queue"):
            for tail in ("schema", "openapi.json"):
                path, shown = f"/{surface}/{endpoint.id}/{tail}", (surface, tail) == ("run", "schema")
                add(app, "GET", path, schema_of(endpoint), "schema", shown=shown)


SEARCH = [
    parameter("query", "q", "cogvideox", "image"),
    parameter("query", "category", "text-to-video", "image-to-video"),
    parameter("query", "status", *STATUSES, enum=[*STATUSES]),
    parameter("query", "limit", 1, 2, type="integer", minimum=1, maximum=LONGEST_PAGE, default=LONGEST_PAGE),
    parameter("query", "cursor", "1", "2"),
    parameter("query", "expand", *EXPANSIONS, enum=[*EXPANSIONS]),
]


def _models(request: Request, base: str) -> dict[str, Any]:
    query = request.query_params
    status, expand = query.get("status", ""), _several(request, "expand")
    if status and status not in STATUSES:
        raise Rejected(400, f"status must be {' or '.join(STATUSES)}, got {status[:100]}")
    if strange := [one for one in expand if one not in EXPANSIONS]:
        raise Rejected(400, f"expand must be {' or '.join(EXPANSIONS)}, got {strange[0][:100]}")
    limit, start = _whole(query.get("limit"), "limit", 1, LONGEST_PAGE), _whole(query.get("cursor"), "cursor", 0, 10**6)
    ids = _ids(request) or catalog.found(query.get("q", ""), query.get("category", ""), status)
    page = ids[start or 0 :][: limit or LONGEST_PAGE]
    end = (start or 0) + len(page)
    more = end < len(ids)
    models = [catalog.entry(one, base, EXPANSIONS[0] in expand) for one in page]
    return {"models": models, "next_cursor": str(end) if more else None, "has_more": more}


def _whole(given: str | None, name: str, low: int, high: int) -> int | None:
    if not given:
        return None
    if not re.fullmatch("[0-9]{1,9}", given, re.ASCII) or not low <= int(given) <= high:
        raise Rejected(400, f"{name} must be a whole number from {low} to {high}, got {given[:100]}")
    return int(given)


def _ids(request: Request) -> list[str]:
    """The requested ids without duplicates, in the order of the request."""
    ids = list(dict.fromkeys(one.strip("/") for one in _several(request, "endpoint_id")))
    if len(ids) > MOST_IDS:
        raise Rejected(400, f"endpoint_id: at most {MOST_IDS} are allowed in a request, got {len(ids)}")
    return ids


def _several(request: Request, name: str) -> list[str]:
    """The values of a parameter. A client may repeat the parameter, or separate several values by commas."""
    given = [*request.query_params.getlist(name), *request.query_params.getlist(f"{name}[]")]
    return [one.strip() for text in given for one in text.split(",") if one.strip()]


def _known() -> str:
    return ", ".join(ENDPOINTS)
