"""The fields of a request: those of a JSON body or of a multipart form.

Knows: Segmind's two content types, and what a form that broke off looks like. Does not know: the fields.
"""

from __future__ import annotations

from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.facades.forms import form_of
from server.facades.segmind.errors import Refused
from server.facades.wire import parsed, read_body


async def read_fields(request: Request, *, forms: bool = True) -> dict[str, Any]:
    """Those that are not null. A body that names no type is taken for JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request)
    if forms and kind == "multipart/form-data":
        fields: Any = await _form(request, body)
    elif kind and kind != "application/json" and not kind.endswith("+json"):
        taken = "application/json or multipart/form-data" if forms else "application/json"
        raise Refused(406, f"Invalid content type {kind[:100]}: send {taken}")
    else:
        fields = await parsed(body, request.state.owner)
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise Refused(400, "The body must be a JSON object")
    return {name: value for name, value in fields.items() if value is not None}


async def _form(request: Request, body: bytes) -> dict[str, Any]:
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary")
    if not boundary:
        raise Refused(400, "The multipart body cannot be read: the Content-Type header names no boundary")
    try:
        async with form_of(request, body) as form:
            # NOTE: a form sends a box left empty as an empty string
            return {
                name: await value.read() if isinstance(value, UploadFile) else value or None
                for name, value in form.items()
            }
    except HTTPException as e:
        raise Refused(400, f"The multipart body cannot be read: {e.detail}") from None
    except UnicodeError:
        raise Refused(400, "The multipart body cannot be read: no text is written in the charset it names") from None
