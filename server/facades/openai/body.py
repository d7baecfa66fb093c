"""The fields of a request's body, whether it is a form or JSON.

Knows: OpenAI's clients send forms even without a file, in which every value is text and an object is spelt
`name[member]`; that `curl -d` calls JSON a form. Does not know: which fields there are.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from server.facades.kit.body import read_body
from server.facades.kit.forms import form_of, is_left_empty
from server.facades.kit.json_bodies import parsed
from server.facades.openai.errors import Refused

MEMBER = re.compile(r"(\w+)\[(\w+)\]")
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class FormFile(bytes):
    """A file of a form, with what the client calls it."""

    name: str
    media_type: str


async def read_fields(request: Request) -> dict[str, Any]:
    """What is null, or an empty box of a form, is left out."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request)
    if kind in FORMS and not (kind == FORMS[1] and body.lstrip().startswith(b"{")):
        return await _of_form(request, body)
    fields = await parsed(body, request.state.owner)
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise Refused(400, "The body must be a JSON object or a form", code="invalid_type")
    return {name: value for name, value in fields.items() if value is not None}


async def _of_form(request: Request, body: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    async with form_of(request, body) as form:
        for name, given in form.multi_items():
            value = await _file(given) if isinstance(given, UploadFile) else given
            if value is None or value == "":
                continue
            if member := MEMBER.fullmatch(name):
                within = fields.setdefault(member[1], {})
                if isinstance(within, dict):
                    within[member[2]] = value
            else:
                fields[name] = value
    return fields


async def _file(given: UploadFile) -> FormFile | None:
    if is_left_empty(given):
        return None
    data = FormFile(await given.read())
    data.name, data.media_type = given.filename or "", given.content_type or ""
    return data
