"""Which of fal's hosts a request was meant for, and which route here answers it.

A client can be pointed here by a path prefix, by the Host header, by the proxy header of the JS client, or by the shape
of the path alone. Paths become `/run/...` or `/queue/...` for models; those of fal's REST and file hosts stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

Surface = Literal["run", "queue", "other"]
PROXIES = ("/fal/proxy", "/api/fal/proxy")
TARGET = "x-fal-target-url"
QUEUE = "https://queue.fal.run"
# when a client puts its base URL before the path of one of our addresses, their common beginning is doubled
SURFACES = re.compile(r"(?:(/fal)?/(run|queue)(?=/|$))+")
REST = re.compile(
    r"(?:/fal)?(/(?:storage|files/upload|tokens|\.well-known|v1/models|api/openapi|models)(?:/.*)?)", re.DOTALL
)
CATALOGUE = r"/v1/models(?:/.*)?|/api/openapi/.+|/models/.+"
OPEN = re.compile(rf"/fal/files/.+|/\.well-known/jwks\.json|{CATALOGUE}", re.DOTALL)
DOCUMENT = re.compile(r".+/(?:schema|openapi\.json)", re.DOTALL)  # the document of one app, at the app's own address


@dataclass(frozen=True)
class Place:
    """`prefix` comes before fal's own path in the addresses we answer with, so that they lead back here. For a client
    of the proxy it is a whole address, because that client sends every call to fal through the proxy."""

    surface: Surface
    path: str
    query: bytes
    prefix: str = "/queue"

    @property
    def is_open(self) -> bool:
        """Whether no key is needed: the address itself contains the permission, or everybody may call it."""
        open_to_all = OPEN if self.surface == "other" else DOCUMENT
        return open_to_all.fullmatch(self.path) is not None


class NoTarget(Exception):
    """The proxy route was called without a target address, or with one that cannot be read."""


def locate(path: str, query: bytes, headers: Headers) -> Place:
    """`path` and `query` are those of the request, unchanged."""
    path = _clean(path)
    if path in PROXIES:
        target = _target(headers.get(TARGET, ""))
        place = _named(_clean(unquote(target.path)), target.query.encode(), target.hostname or "", headers)
        return Place(place.surface, place.path, place.query, QUEUE)
    return _named(path, query, headers.get("host", ""), headers)


def _target(text: str) -> SplitResult:
    try:
        target = urlsplit(text)
    except ValueError:
        raise NoTarget from None
    if not target.hostname:
        raise NoTarget
    return target


def _named(path: str, query: bytes, host: str, headers: Headers) -> Place:
    if match := SURFACES.match(path):
        rest = path[match.end() :] or "/"
        return Place("run" if match[2] == "run" else "queue", rest, query, f"{match[1] or ''}/queue")
    if match := REST.fullmatch(path):
        return Place("other", match[1], query)
    if host.startswith("queue."):
        return Place("queue", path, query, "")
    if host.startswith("rest.") or path.startswith("/fal/"):
        return Place("other", path, query)
    # NOTE: here run and submit look alike; only what some clients add to a submit tells them apart
    queued = "/requests/" in path or b"fal_webhook=" in query or "x-fal-queue-priority" in headers
    return Place("queue" if queued else "run", path, query, "")


def _clean(path: str) -> str:
    """Removes doubled and trailing slashes here, because fal's async Python client does not follow redirects."""
    return re.sub(r"/{2,}", "/", f"/{path}").rstrip("/") or "/"


def move(scope: Scope, place: Place) -> None:
    """Changes `scope` so that it leads to the route for `place`."""
    path = place.path if place.surface == "other" else f"/{place.surface}{place.path}"
    scope["path"] = path
    scope["raw_path"] = path.encode()
    scope["root_path"] = ""
    scope["query_string"] = place.query
