"""The fields of a request, whether its body is JSON or a form.

Knows: media types, null, empty boxes of forms. Does not know: which fields there are.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from server.facades.kit.body import read_body
from server.facades.kit.errors import NotAnObject
from server.facades.kit.forms import MULTIPART, URLENCODED, form_of, is_left_empty
from server.facades.kit.json_bodies import parsed


class FormFile(bytes):
    """A file of a form, with what the client calls it."""

    name: str
    media_type: str


async def read_fields(request: Request, forms: Collection[str] = (MULTIPART,)) -> dict[str, Any]:
    """Those that are not null and no empty box of a form. Values of a form are text or FormFile.

    `forms`: the media types that are read as forms; all others are taken for JSON, and so is an urlencoded body that
    begins like JSON, as `curl -d` sends it. Raises BadBody, BadForm, NotAnObject, and what reading raises.
    """
    kind, body = media_type(request), await read_body(request)
    if kind in forms and not (kind == URLENCODED and body.lstrip().startswith(b"{")):
        return await _of_form(request, body)
    return present(members(await parsed(body, request.state.owner)))


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def members(document: Any) -> dict[str, Any]:
    """The fields of a JSON document, none where there is no body. Raises NotAnObject."""
    if not isinstance(document, dict | None):
        raise NotAnObject(document)
    return document or {}


def present(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null."""
    return {name: value for name, value in fields.items() if value is not None}


async def _of_form(request: Request, body: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    async with form_of(request, body) as form:
        for name, given in form.multi_items():
            value = await _file(given) if isinstance(given, UploadFile) else given
            if value is not None and value != "":
                fields[name] = value
    return fields


async def _file(given: UploadFile) -> FormFile | None:
    if is_left_empty(given):
        return None
    data = FormFile(await given.read())
    data.name, data.media_type = given.filename or "", given.content_type or ""
    return data
