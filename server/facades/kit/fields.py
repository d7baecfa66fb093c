"""Reads the fields of a request from a JSON body or a form, and selects the part that a façade stores with the job.

Knows: media types, null, empty inputs of forms, how much to store. Does not know: a vendor's fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from server.facades.kit.body import read_body
from server.facades.kit.complaints import MAX_PROMPT, SHOWN, shown
from server.facades.kit.errors import NotAnObject
from server.facades.kit.forms import MULTIPART, URLENCODED, form_of, is_left_empty
from server.facades.kit.json_bodies import parsed
from server.jobs.job import Job

KEPT = 64_000  # characters of a request's fields to store
UNKNOWN, LONGEST_FIELD = 20, 60  # the notes name at most 20 unknown fields, with 60 characters of each name
NOT_A_FIELD = "this server has no such field"


class FormFile(bytes):
    """The bytes of a file in a form. `name`: the file name that the client sent."""

    name: str
    media_type: str


async def read_fields(request: Request, forms: Collection[str] = (MULTIPART,)) -> dict[str, Any]:
    """Returns the fields, without null values and without empty inputs of a form. Each value in a form is text or a
    FormFile.

    `forms`: the media types to read as forms. All other bodies are parsed as JSON. An urlencoded body that begins with
    `{` is parsed as JSON too, because `curl -d` sends JSON with that media type. Raises BadBody, BadForm, NotAnObject,
    and what `read_body` raises.
    """
    kind, body = media_type(request), await read_body(request)
    if kind in forms and not (kind == URLENCODED and body.lstrip().startswith(b"{")):
        return await _of_form(request, body)
    return present(members(await parsed(body, request.state.owner)))


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def members(document: Any) -> dict[str, Any]:
    """The fields of a JSON document; a request without a body has no fields. Raises NotAnObject."""
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


def kept(fields: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields with these names, abridged to KEPT characters in total; long values such as images are cut."""
    left = Left(KEPT)
    return {name[:SHOWN]: _abridged(fields[name], left) for name in names if fields.get(name) is not None}


@dataclass
class Left:
    """The number of characters that may still be stored."""

    characters: int

    def take(self, size: int) -> bool:
        self.characters -= size
        return self.characters >= 0


def _abridged(value: Any, left: Left, depth: int = 3) -> Any:
    left.take(8)  # the overhead of a value
    if isinstance(value, str):
        if len(value) > MAX_PROMPT or not left.take(len(value)):
            value = f"{value[:80]}… ({len(value)} characters)"
        return value.encode("utf-8", "replace").decode().replace("\0", "")
    if isinstance(value, dict) and depth and left.take(0):
        some = list(value.items())[:100]
        return {name: _abridged(one, left, depth - 1) for key, one in some if (name := _plain(key)) and left.take(0)}
    if isinstance(value, list) and depth and left.take(0):
        return [_abridged(one, left, depth - 1) for one in value[:100] if left.take(0)]
    return shown(value)


def _plain(key: str) -> str:
    return key[:SHOWN].encode("utf-8", "replace").decode().replace("\0", "")


def unknown(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """Returns a note for each name in `given` that is not in `known`. The notes name at most UNKNOWN fields; one more
    note counts the other fields."""
    names = sorted(set(given) - set(known))
    said = [f"{_plain(name[:LONGEST_FIELD])}: ignored ({NOT_A_FIELD})" for name in names[:UNKNOWN]]
    return said if len(names) <= UNKNOWN else [*said, f"and {len(names) - UNKNOWN} more fields"]


def planned(job: Job, fields: Mapping[str, str] = {}) -> list[str]:
    """A note for each value that the plan has changed. `fields`: GenerationRequest's names -> the vendor's."""
    notes = (job.plan or {}).get("notes", ())
    return [f"{fields.get(n['field'], n['field'])}: {n['asked']} -> {n['used']} ({n['reason']})" for n in notes]
