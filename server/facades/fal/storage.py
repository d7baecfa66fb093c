"""fal's file storage. Each of fal's two clients has its own calls for uploads in one piece and in parts.

The permission to upload is part of the URL. The key in a file's URL identifies the file; the name after the key is only
for human readers.
"""

from __future__ import annotations

import mimetypes
import re
import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.facades.fal import tokens
from server.facades.fal.errors import Rejected
from server.facades.fal.models import AppToken, NewFile, UploadedParts
from server.facades.fal.options import LIFECYCLE, PREFERENCE, keep_seconds
from server.facades.fal.tokens import Ticket
from server.facades.kit.body import Json, read_json
from server.media.artifact import Artifact

TOKEN_SECONDS = 3600
UPLOAD_SECONDS = 86_400  # the time limit from the start of an upload to its last part
OURS = re.compile(r"/fal/files/([A-Za-z0-9_-]{32})/[^/]+")


def file_of(context: Context, path: str) -> Artifact | None:
    """The file at `path`, a URL path of this API. The path may begin with the prefix of a proxy."""
    found = re.search(OURS.pattern + "$", path)
    return context.artifacts.find(found[1]) if found else None


class Storage:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.signing = context.signing

    def token(self, request: Request) -> Response:
        """Returns a token for uploads by the Python client. The token expires at `expires_at`, a time with an explicit
        UTC offset."""
        until = int(time.time()) + TOKEN_SECONDS
        body = {
            "token": tokens.issue(self.signing, "files", until, owner=request.state.owner),
            "token_type": "Bearer",
            "base_url": self.context.artifacts.base_url(request),
            "expires_at": datetime.fromtimestamp(until, UTC).isoformat(),
        }
        return Json(body)

    async def app_token(self, request: Request) -> Response:
        asked = AppToken.model_validate(await read_json(request) or {})
        until = time.time() + asked.token_expiration
        token = tokens.issue(self.signing, "app", until, owner=request.state.owner, apps=asked.allowed_apps)
        return Json(token)

    async def upload(self, request: Request) -> Response:
        ticket = self._ticket_of_headers(request)
        artifact = await self.context.uploads.store(
            request.stream(), ticket.name, ticket.media_type, keep_seconds=ticket.keep_seconds, key=ticket.key
        )
        return Json({"access_url": self._address(request, ticket.key, artifact.file_name)})

    def begin(self, request: Request) -> Response:
        """Starts an upload in parts for the Python client."""
        ticket = self._ticket_of_headers(request)
        token = ticket.token(self.signing, time.time() + UPLOAD_SECONDS)
        return Json({"access_url": self._address(request, ticket.key, ticket.name), "uploadId": token})

    async def initiate(self, request: Request) -> Response:
        """Starts an upload, in one piece or in parts, for clients that send the file to `upload_url`."""
        asked = NewFile.model_validate(await read_json(request) or {})
        ticket = self._ticket(request, asked.file_name, asked.content_type)
        address = self._address(request, ticket.key, ticket.name)
        token = ticket.token(self.signing, time.time() + UPLOAD_SECONDS)
        return Json({"upload_url": f"{address}/multipart/{token}", "file_url": address})

    async def put(self, request: Request, key: str, name: str, ticket: str) -> Response:
        given = self._given(key, ticket)
        await self.context.uploads.store(
            request.stream(), given.name, given.media_type, keep_seconds=given.keep_seconds, key=key
        )
        return Response(media_type="text/plain")

    async def put_part(self, request: Request, key: str, name: str, ticket: str, number: str) -> Response:
        """Stores a part. The response has the part's tag in a header for the Python client, and in the body for the JS
        client."""
        self._given(key, ticket)
        if not re.fullmatch(r"\d{1,5}", number, re.ASCII):
            raise Rejected(400, "The part number must be a whole number from 1 to 10000")
        etag = await self.context.uploads.store_part(key, int(number), request.stream())
        return Json({"partNumber": int(number), "etag": etag}, headers={"etag": etag})

    async def complete(self, request: Request, key: str, name: str, ticket: str) -> Response:
        given = self._given(key, ticket)
        asked = UploadedParts.model_validate(await read_json(request) or {})
        await self.context.uploads.complete(
            key,
            [part.partNumber for part in asked.parts],
            given.name,
            given.media_type,
            keep_seconds=given.keep_seconds,
        )
        return Json({"access_url": self._address(request, key, given.name)})

    def file(self, request: Request, key: str, name: str) -> Response:
        found = self.context.artifacts.find(key)
        return self.context.artifacts.respond(request, key, found.file_name if found else name)

    def _ticket_of_headers(self, request: Request) -> Ticket:
        name, media_type = request.headers.get("x-fal-file-name", ""), request.headers.get("content-type", "")
        return self._ticket(request, name, media_type)

    def _ticket(self, request: Request, name: str, media_type: str) -> Ticket:
        media_type = media_type.partition(";")[0].strip().lower()[:100]
        keep = keep_seconds(request.headers, LIFECYCLE, PREFERENCE)
        return Ticket(self.context.artifacts.new_key(request.state.owner), _plain(name, media_type), media_type, keep)

    def _given(self, key: str, token: str) -> Ticket:
        ticket = Ticket.of(self.signing, token)
        if ticket is None or ticket.key != key:
            raise Rejected(403, "This upload address is not one of this server's, or its time is over")
        return ticket

    def _address(self, request: Request, key: str, name: str) -> str:
        base = f"{self.context.artifacts.base_url(request)}/fal"
        return self.context.artifacts.url(Artifact(key, "", name, 0), base)


def _plain(name: str, media_type: str) -> str:
    """Converts `name` to the last part of a URL. A name without an extension gets the extension of the media type."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", re.split(r"[/\\]", name)[-1])[-100:].strip(".-") or "file"
    return plain if "." in plain else plain + (mimetypes.guess_extension(media_type) or "")
