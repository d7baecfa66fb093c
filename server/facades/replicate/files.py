"""Files that clients upload with `POST /v1/files`; they are kept for a day."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from pipelines.ranges import flaw
from server.context import Context
from server.datadir import full_disk_named
from server.facades.kit.body import Json, check_length, counted
from server.facades.kit.forms import FormLimits, parsed_form
from server.facades.kit.json_bodies import parse_json
from server.facades.kit.records import Record, Records
from server.facades.replicate import errors
from server.facades.replicate.answers import timestamp
from server.facades.replicate.catalog import page
from server.jobs.jobs import PAGE_WAIT
from server.limits.room import tag_of
from server.media.artifact import Artifact

KEPT = 24 * 3600.0  # seconds, as at Replicate
CHUNK = 2**20
METADATA = 2**16  # bytes
NAME = 200  # characters


class Files:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.records = Records(context, context.data.records["replicate"])

    async def create(self, request: Request) -> Response:
        check_length(request)
        limits = FormLimits(request.headers.get("content-type", ""))
        room, tag = self.context.uploads.room, tag_of(request.state.owner)
        # the parser stores the form in temporary files in the data folder until the block ends
        with full_disk_named(), room.growing(tag) as grow:
            return await self._create(request, counted(request, grow=grow, look=limits.check))

    async def _create(self, request: Request, read: Request) -> Response:
        form = await parsed_form(read, max_files=10, max_fields=10)
        try:
            content = form.get("content")
            if not isinstance(content, UploadFile):
                raise errors.refused("required", "", "content is required, as a file")
            if not content.size:
                raise errors.refused("invalid", "content", "The file is empty")
            metadata = await _metadata(form.get("metadata"))
            name = _text(form.get("filename")) or content.filename or "file"
            kind = _text(form.get("type")) or content.content_type or "application/octet-stream"
            record = await self._store(request, content, name[:NAME], kind[:NAME], metadata)
        finally:
            await form.close()
        return Json(await run_in_threadpool(self._answer, request, record), status_code=201)

    async def _store(
        self, request: Request, content: UploadFile, name: str, kind: str, metadata: dict[str, Any]
    ) -> dict[str, Any]:
        digest = hashlib.sha256()

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := await content.read(CHUNK):
                digest.update(chunk)
                yield chunk

        artifact = await self.context.uploads.store(chunks(), name, kind, keep_seconds=KEPT, owner=request.state.owner)
        record = {
            "id": artifact.key,
            "name": name,
            "content_type": kind,
            "size": artifact.size,
            "etag": digest.hexdigest()[:32],
            "checksums": {"sha256": digest.hexdigest()},
            "metadata": metadata,
            "created_at": timestamp(time.time()),
            "expires_at": timestamp(await run_in_threadpool(self.context.artifacts.expires_at, artifact.key)),
        }
        await run_in_threadpool(self.records.keep, request.state.owner, artifact.key, record)
        return record

    async def list(self, request: Request) -> Response:
        """All files of the key on one page, newest first."""
        async with self.context.jobs.pages.turn(request.state.owner, PAGE_WAIT):
            return await run_in_threadpool(self._list, request)

    def _list(self, request: Request) -> Response:
        records = sorted(self.records.all(request.state.owner), key=lambda one: str(one["created_at"]), reverse=True)
        return Json(page([self._answer(request, record) for record in records]))

    def get(self, request: Request, file_id: str) -> Response:
        return Json(self._answer(request, self._find(request, file_id)[0]))

    def delete(self, request: Request, file_id: str) -> Response:
        _, artifact = self._find(request, file_id)
        self.records.remove(request.state.owner, artifact)
        return Response(status_code=204)

    def _find(self, request: Request, file_id: str) -> tuple[Record, Artifact]:
        found = self.records.find(request.state.owner, file_id)
        if found is None:
            raise errors.not_found(f"file {file_id}")
        return found

    def _answer(self, request: Request, record: dict[str, Any]) -> dict[str, Any]:
        artifact = self.context.artifacts.find(record["id"])
        base = self.context.artifacts.base_url(request)
        return {**record, "urls": {"get": self.context.artifacts.url(artifact, base)} if artifact else {}}


def _text(given: UploadFile | str | None) -> str | None:
    return given if isinstance(given, str) and not flaw(given) else None


async def _metadata(given: UploadFile | str | None) -> dict[str, Any]:
    """Parses the JSON object in a text or a file."""
    data = await given.read(METADATA + 1) if isinstance(given, UploadFile) else (given or "").encode("utf-8", "replace")
    if len(data) > METADATA:
        raise errors.refused("string_lte", "metadata", f"Must be at most {METADATA} bytes long")
    found = parse_json(data)
    if not isinstance(found, dict | None):
        raise errors.refused("invalid_type", "metadata", errors.wrong_type("object", found))
    return found or {}
