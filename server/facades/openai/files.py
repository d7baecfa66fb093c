"""OpenAI's files: images that are uploaded first and then referenced by id in a video request."""

from __future__ import annotations

import re
import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.ranges import flaw
from server.context import Context
from server.facades.kit.body import Json
from server.facades.kit.fields import FormFile, read_fields
from server.facades.kit.records import Record, Records
from server.facades.openai.answers import page
from server.facades.openai.errors import Refused
from server.facades.openai.models import FORMS, CreateFile, nested
from server.facades.openai.query import is_newest_first, limit_of, unknown_after
from server.jobs.jobs import PAGE_WAIT
from server.media.artifact import Artifact
from server.media.uploads import chunks_of

PREFIX = "file-"
ID = re.compile(PREFIX + "[A-Za-z0-9_-]{32}")
LONGEST_PAGE = 10_000
NAME = 200  # characters


def records_of(context: Context) -> Records:
    return Records(context, context.data.records["openai"])


def find(context: Context, file_id: str, owner: str, param: str = "file_id") -> tuple[Record, Artifact]:
    """Finds the record and the file with this id, if `owner` uploaded the file. Raises Refused."""
    found = records_of(context).find(owner, file_id.removeprefix(PREFIX)) if ID.fullmatch(file_id) else None
    if found is None:
        raise Refused(404, f"No such File object: {file_id[:100]}", param, "not_found")
    return found


class Files:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.records = records_of(context)

    async def create(self, request: Request) -> Response:
        fields = nested(await read_fields(request, FORMS))
        given = CreateFile.model_validate(fields)
        file = fields["file"]
        if not isinstance(file, FormFile):
            raise Refused(400, "Invalid 'file': must be a file of a multipart form", "file", "invalid_type")
        if not file:
            raise Refused(400, "Invalid 'file': the file is empty", "file", "invalid_value")
        keep = given.expires_after.seconds if given.expires_after else None
        artifact = await self.context.uploads.store(
            chunks_of([file]), file.name, file.media_type, keep_seconds=keep, owner=request.state.owner
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
        await run_in_threadpool(self.records.keep, request.state.owner, artifact.key, record)
        return Json(record)

    async def list(self, request: Request) -> Response:
        async with self.context.jobs.pages.turn(request.state.owner, PAGE_WAIT):
            return await run_in_threadpool(self._list, request)

    def _list(self, request: Request) -> Response:
        query = request.query_params
        limit, purpose, after = limit_of(query, LONGEST_PAGE, LONGEST_PAGE), query.get("purpose"), query.get("after")
        found = self.records.all(request.state.owner)
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
        self.records.remove(request.state.owner, artifact)
        return Json({"id": file_id, "object": "file", "deleted": True})
