"""OpenAI's files: pictures brought beforehand, to be named by their id when a video is asked for.

Knows: OpenAI's file object, of which a record lies in a folder of its owner's, and how the list of them is paged.
Does not know: how the files themselves are stored.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.ranges import flaw
from server.context import Context
from server.datadir import write_atomically
from server.facades.kit.body import Json
from server.facades.openai.answers import page
from server.facades.openai.body import FormFile, read_fields
from server.facades.openai.errors import Refused
from server.facades.openai.models import CreateFile
from server.facades.openai.query import is_newest_first, limit_of, unknown_after
from server.jobs.jobs import PAGE_WAIT
from server.media.artifact import Artifact

PREFIX = "file-"
ID = re.compile(PREFIX + "[A-Za-z0-9_-]{32}")
LONGEST_PAGE = 10_000
NAME = 200  # characters


def find(context: Context, file_id: str, owner: str, param: str = "file_id") -> tuple[dict[str, Any], Artifact]:
    """The record and the file of an id that this owner was given. Raises Refused."""
    if ID.fullmatch(file_id) and (record := _read(context, _folder(context, owner) / file_id)) is not None:
        artifact = context.artifacts.find(file_id.removeprefix(PREFIX))
        if artifact is not None:
            return record, artifact
    raise Refused(404, f"No such File object: {file_id[:100]}", param, "not_found")


def _folder(context: Context, owner: str) -> Path:
    return context.data.records["openai"] / (owner or "anyone")


def _read(context: Context, path: Path) -> dict[str, Any] | None:
    """A record, unless its file's time is over; then it goes as well."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except OSError:
        return None
    if context.artifacts.find(path.name.removeprefix(PREFIX)) is None:
        path.unlink(missing_ok=True)
        return None
    return record


class Files:
    """The calls, over one context."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create(self, request: Request) -> Response:
        fields = await read_fields(request)
        given = CreateFile.model_validate(fields)
        file = fields["file"]
        if not isinstance(file, FormFile):
            raise Refused(400, "Invalid 'file': must be a file of a multipart form", "file", "invalid_type")
        if not file:
            raise Refused(400, "Invalid 'file': the file is empty", "file", "invalid_value")
        keep = given.expires_after.seconds if given.expires_after else None
        artifact = await self.context.uploads.store(
            _once(file), file.name, file.media_type, keep_seconds=keep, owner=request.state.owner
        )
        expires = await run_in_threadpool(self.context.artifacts.expires_at, artifact.key)
        record = {
            "id": f"{PREFIX}{artifact.key}",
            "object": "file",
            "bytes": artifact.size,
            "created_at": int(time.time()),
            "expires_at": None if expires is None else int(expires),
            "filename": artifact.file_name if flaw(file.name) else file.name[:NAME],
            "purpose": given.purpose,
            "status": "processed",
            "status_details": None,
        }
        await run_in_threadpool(self._keep, request.state.owner, record)
        return Json(record)

    def _keep(self, owner: str, record: dict[str, Any]) -> None:
        folder = _folder(self.context, owner)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / record["id"], json.dumps(record).encode("ascii"))

    async def list(self, request: Request) -> Response:
        async with self.context.jobs.pages.turn(request.state.owner, PAGE_WAIT):
            return await run_in_threadpool(self._list, request)

    def _list(self, request: Request) -> Response:
        query = request.query_params
        limit, purpose, after = limit_of(query, LONGEST_PAGE, LONGEST_PAGE), query.get("purpose"), query.get("after")
        paths = _folder(self.context, request.state.owner).glob(f"{PREFIX}*")
        found = [record for path in paths if (record := _read(self.context, path)) is not None]
        found.sort(key=lambda record: (record["created_at"], record["id"]), reverse=is_newest_first(query))
        if after:
            ids = [record["id"] for record in found]
            if after not in ids:
                raise unknown_after(after)
            found = found[ids.index(after) + 1 :]
        found = [record for record in found if not purpose or record["purpose"] == purpose]
        return Json(page(found[:limit], has_more=len(found) > limit))

    def retrieve(self, request: Request, file_id: str) -> Response:
        return Json(find(self.context, file_id, request.state.owner)[0])

    def delete(self, request: Request, file_id: str) -> Response:
        _, artifact = find(self.context, file_id, request.state.owner)
        self.context.artifacts.remove(artifact)
        (_folder(self.context, request.state.owner) / file_id).unlink(missing_ok=True)
        return Json({"id": file_id, "object": "file", "deleted": True})


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
