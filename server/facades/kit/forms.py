"""Reads forms. Limits the CPU time for a form, because the parser is written in Python and runs in the event loop.

Knows: multipart, urlencoded. Does not know: a vendor's fields.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from server.datadir import full_disk_named
from server.facades.kit.errors import BadForm
from server.limits.bodies import MAX_BODY, BodyTooLarge

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
MOST_FIELDS = 1000
MAX_URLENCODED = 2**20  # bytes: each escape costs the parser some hundred bytes and a microsecond
PIECE = 64 * 2**10  # bytes to parse before the event loop gets a turn
FILE_TYPES = (b"image/", b"video/", b"audio/", b"application/octet-stream")
PROBED = 1024  # bytes: a part counts as text if its first PROBED bytes are text
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # control characters, except ESC and those in text, such as tab
UNSAFE_CHARSETS = ("idna", "punycode", "undefined")  # the decoders raise unexpected errors, or take minutes


class Parts(MultiPartParser):
    """Also treats a part without a file name as a file if the part has the media type of a file or does not contain
    text.

    NOTE: uses private attributes of Starlette's parser, which treats every part without a file name as text.
    """

    def on_headers_finished(self) -> None:
        kind = dict(self._current_part.item_headers).get(b"content-type", b"").strip().lower()
        if kind.startswith(FILE_TYPES):
            self._call_it_a_file()
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None and len(part.data) < PROBED and _is_binary(bytes(part.data) + data[start:end]):
            self._current_fields -= 1
            self._call_it_a_file()
            super().on_headers_finished()
            self._file_parts_to_write.append((part, bytes(part.data)))
        super().on_part_data(data, start, end)

    def _call_it_a_file(self) -> None:
        disposition = self._current_part.content_disposition or b""
        if b"filename" not in parse_options_header(disposition)[1]:
            self._current_part.content_disposition = disposition + b'; filename=""'


def _is_binary(data: bytes) -> bool:
    """Whether `data` is not text. Data that is not text is not valid UTF-8 and contains control characters. Text in an
    older encoding contains no control characters."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)  # `data` may end inside a character
    except UnicodeDecodeError:
        return CONTROL.search(data) is not None
    return False


async def parsed_form(request: Request, **limits: int) -> FormData:
    """Like `Request.form`, but with `Parts`. Raises BadForm for a malformed form."""
    if parse_options_header(request.headers.get("content-type"))[0] != MULTIPART.encode():
        return await request.form(**limits)
    try:
        return await Parts(request.headers, request.stream(), **limits).parse()
    except MultiPartException as e:
        raise BadForm(e.message) from None


def is_left_empty(given: UploadFile) -> bool:
    """Whether the part comes from a file input in which no file was chosen. The result is false for a chosen file that
    is empty."""
    return not given.size and not given.filename and given.content_type in (None, "", "application/octet-stream")


class FormLimits:
    """Limits for a form. Call `check` with each piece of the body before the piece is parsed.

    Raises BadForm for a form that has more than MOST_FIELDS fields or one of UNSAFE_CHARSETS. Raises BodyTooLarge for
    an urlencoded body of more than MAX_URLENCODED bytes. MOST_FIELDS limits empty fields too, which the parser does not
    count.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if _codec(options.get(b"charset", b"utf-8").decode("latin-1")) in UNSAFE_CHARSETS:
            raise BadForm("The form's charset is not supported")
        self._is_urlencoded = kind == URLENCODED.encode()
        self._mark = b"&" if self._is_urlencoded else b"\r\n--" + options.get(b"boundary", b"")
        self._rest = b""
        self._size = self._marks = 0

    def check(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._is_urlencoded and self._size > MAX_URLENCODED:
            raise BodyTooLarge(MAX_URLENCODED)
        data = self._rest + piece
        self._marks += data.count(self._mark)
        self._rest = data[len(data) - len(self._mark) + 1 :]
        if self._marks > MOST_FIELDS:
            raise BadForm(f"The form has more than {MOST_FIELDS} fields")


def _codec(charset: str) -> str:
    try:
        return codecs.lookup(charset).name
    except (LookupError, ValueError):  # the parser replaces an unknown charset by another charset
        return ""


def _check_end(content_type: str, body: bytes) -> None:
    """Raises BadForm for an incomplete form. NOTE: the parser silently drops an incomplete part. Without this check,
    the form would only seem to lack a field."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != MULTIPART.encode():
        return
    if not boundary:
        raise BadForm("The Content-Type header names no boundary")
    if b"--" + boundary + b"--" not in body:
        raise BadForm("The form is torn: it ends before its closing boundary")


@asynccontextmanager
async def form_of(request: Request, body: bytes) -> AsyncIterator[FormData]:
    """Parses the form in a body that was already read. Raises BadForm for a malformed form, BodyTooLarge, and DiskFull.
    The disk matters because files of more than 1 MiB are stored in the temporary folder while the form is open."""
    limits, at = FormLimits(request.headers.get("content-type", "")), 0
    limits.check(body)
    _check_end(request.headers.get("content-type", ""), body)

    async def receive() -> Message:
        nonlocal at
        begin, at = at, at + PIECE
        await asyncio.sleep(0)
        return {"type": "http.request", "body": body[begin:at], "more_body": at < len(body)}

    with full_disk_named():
        try:
            form = await parsed_form(Request(request.scope, receive), max_part_size=MAX_BODY)
        except UnicodeError:
            raise BadForm("The form's text is not in the charset that the form names") from None
    try:
        yield form
    finally:
        await form.close()
