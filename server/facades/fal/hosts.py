"""Determines for which of fal's hosts a request is meant, and which route here answers it.

A path prefix, the Host header or the JS client's proxy header identifies the host. If the request has none of these,
the form of the path identifies the host. Paths for models become `/run/...` or `/queue/...`; paths of fal's REST and
file hosts stay unchanged.
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
# some clients put their base URL before the path of one of our URLs; then the path begins with this prefix twice
SURFACES = re.compile(r"(?:(/fal)?/(run|queue)(?=/|$))+")
REST = re.compile(
    r"(?:/fal)?(/(?:storage|files/upload|tokens|\.well-known|v1/models|api/openapi|models)(?:/.*)?)", re.DOTALL
)
CATALOGUE = r"/v1/models(?:/.*)?|/api/openapi/.+|/models/.+"
OPEN = re.compile(rf"/fal/files/.+|/\.well-known/jwks\.json|{CATALOGUE}", re.DOTALL)
DOCUMENT = re.compile(r".+/(?:schema|openapi\.json)", re.DOTALL)  # the OpenAPI document of an app


@dataclass(frozen=True)
class Place:
    """In the URLs of our responses, `prefix` precedes fal's own path, so that requests to these URLs reach this server.
    For a request with the proxy header, `prefix` is one of fal's URLs, because a client with a proxy sends all requests
    for fal's URLs through that proxy."""

    surface: Surface
    path: str
    query: bytes
    prefix: str = "/queue"

    @property
    def is_open(self) -> bool:
        """Whether the request needs no key. No key is needed if the URL itself contains the permission, or if the
        content is public."""
        open_to_all = OPEN if self.surface == "other" else DOCUMENT
        return open_to_all.fullmatch(self.path) is not None


class NoTarget(Exception):
    """A call of the proxy route has no valid target header."""


def locate(path: str, query: bytes, headers: Headers) -> Place:
    """Returns the Place of a request. `path` and `query` are those that the server received. Raises NoTarget."""
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
    # NOTE: a run and a submit have the same path here; only some clients mark a submit, with a parameter or a header
    queued = "/requests/" in path or b"fal_webhook=" in query or "x-fal-queue-priority" in headers
    return Place("queue" if queued else "run", path, query, "")


def _clean(path: str) -> str:
    """Removes double and trailing slashes. A redirect to the clean path would not help, because the async Python client
    does not follow redirects."""
    return re.sub(r"/{2,}", "/", f"/{path}").rstrip("/") or "/"


def move(scope: Scope, place: Place) -> None:
    """Rewrites the path in `scope` to the route for `place`."""
    path = place.path if place.surface == "other" else f"/{place.surface}{place.path}"
    scope["path"] = path
    scope["raw_path"] = path.encode()
    scope["root_path"] = ""
    scope["query_string"] = place.query
