"""Authenticates requests: some calls need a key, and some accept one of this server's tokens instead."""

from __future__ import annotations

from starlette.requests import Request

from server.auth import Unauthorized
from server.context import Context
from server.facades.fal import tokens
from server.facades.fal.errors import Rejected, infrastructure
from server.facades.fal.hosts import NoTarget, Place, locate, move
from server.facades.fal.models import APP
from server.facades.kit.errors import Refused


def admit(context: Context, request: Request) -> None:
    """Finds the route for the request, rewrites the path to that route, and checks the key. Raises Refused."""
    try:
        place = locate(request.scope["path"], request.scope["query_string"], request.headers)
    except NoTarget:
        raise Rejected(400, "The header x-fal-target-url must name the address this request is for") from None
    move(request.scope, place)
    request.state.fal_prefix = place.prefix
    try:
        request.state.owner = "" if place.is_open else _owner(context, request, place)
    except Unauthorized as e:
        text = _asking(place) if e.reason == "missing" else "invalid key credentials"
        raise Refused(infrastructure(401, text)) from None


def _owner(context: Context, request: Request, place: Place) -> str:
    """Raises Unauthorized."""
    claims = None
    if place.path.startswith("/files/upload"):
        token = request.headers.get("authorization", "").partition(" ")[2].strip()
        claims = tokens.read(context.signing, "files", token)
    elif place.surface == "run" and (token := request.query_params.get("fal_jwt_token", "")):
        claims = tokens.read(context.signing, "app", token)
        if claims is None or not {APP, APP.partition("/")[2]} & set(claims["apps"]):
            raise Unauthorized("unknown")
    return context.keys.identify(request.headers) if claims is None else str(claims["owner"])


def _asking(place: Place) -> str:
    if place.surface == "other":
        return "Authentication is required"
    name = "/".join(place.path.strip("/").split("/")[:2])
    return f'Cannot access application "{name}". Authentication is required to access this application.'
