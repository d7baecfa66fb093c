"""Reads a body that may itself contain the API key. The body is stored on disk until the key is found."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.datadir import full_disk_named
from server.facades.kit.body import body_length, collected
from server.facades.kit.json_bodies import MAX_VALUES, BadBody
from server.limits.bodies import MAX_BODY, SHORT, Bodies, BodyTooLarge

SECONDS = 120.0  # the time limit for receiving a body up to its key
STRANGERS = 512 * 2**20  # bytes on disk for all bodies whose key is not yet found; each IP address may use MAX_BODY
LONGEST_KEY = 1024  # bytes

INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
MARK = re.compile(rb'["{}\[\],:]')


class KeyScanner:
    """Finds the first field `key` of a JSON object that arrives in pieces."""

    def __init__(self) -> None:
        self.key: str | None = None
        self._depth = 0
        self._marks = 0
        self._in_string = False
        self._text: bytearray | None = None  # the current string; None if it is no field's name and no key
        self._name = ""
        self._is_value = False
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Raises BadBody for a body with too many values."""
        data, at = self._rest + piece, 0
        self._rest = b""
        while at < len(data) and self.key is None:
            if self._in_string:
                end = self._inside(data, at)
                if data[end : end + 1] == b"\\":  # the rest of the escape is in the next piece
                    self._rest = data[end:]
                    return
                if end == len(data):
                    return
                self._in_string, at = False, end + 1
                self._string()
            elif (mark := MARK.search(data, at)) is None:
                return
            else:
                at = mark.end()
                self._mark(mark[0])

    def _inside(self, data: bytes, at: int) -> int:
        found = INSIDE.match(data, at)
        end = found.end() if found else at
        if self._text is not None:
            self._text += data[at : min(end, at + LONGEST_KEY + 1)]
            if len(self._text) > LONGEST_KEY:
                self._text = None
        return end

    def _mark(self, mark: bytes) -> None:
        self._marks += 1
        if self._marks > 4 * MAX_VALUES:
            raise BadBody(f"The body holds more than {MAX_VALUES} values")
        match mark:
            case b'"':
                self._in_string = True
                self._text = bytearray() if self._depth == 1 else None
            case b"{" | b"[":
                self._depth += 1
            case b"}" | b"]":
                self._depth -= 1
            case b":" if self._depth == 1:
                self._is_value = True
            case b"," if self._depth == 1:
                self._is_value = False

    def _string(self) -> None:
        if self._depth != 1 or self._text is None:
            return
        try:
            text = str(json.loads(b'"%s"' % self._text))
        except ValueError:
            return
        if not self._is_value:
            self._name = text
        elif self._name == "key":
            self.key = text


async def read(
    request: Request,
    strangers: Bodies,
    folder: Path,
    identify: Callable[[str | None], str],
    grow: Callable[[int], None] = lambda _: None,
) -> tuple[bytes, str | None]:
    """Returns the body, and the owner of the key in the body. For a short body, the owner is None, because the caller
    can look up the key after parsing.

    `grow` is called with the size of each piece before the piece is written. Raises Unauthorized if the key in the body
    is invalid or missing; also raises BodyTooLarge, TooManyBodies, BadBody, DiskFull, and HTTPException 408 after
    SECONDS.
    """
    length = body_length(request)
    chunks, scanner, owner = request.stream(), KeyScanner(), None
    address = request.client.host if request.client else "unknown"
    size = MAX_BODY if length is None else length
    if size > MAX_BODY:
        raise BodyTooLarge
    if size <= SHORT:
        return await collected(request, chunks), None
    try:
        async with asyncio.timeout(SECONDS):
            await strangers.take(address, size)
            try:
                with full_disk_named(), tempfile.TemporaryFile(dir=folder) as file:
                    read = 0
                    async for chunk in chunks:
                        read += len(chunk)
                        if read > MAX_BODY:
                            raise BodyTooLarge
                        scanner.feed(chunk)
                        grow(len(chunk))
                        await asyncio.to_thread(file.write, chunk)
                        if scanner.key is not None:
                            owner = identify(scanner.key)
                            break
                    if owner is None and read > SHORT:
                        identify(None)  # raises Unauthorized, because the headers have no valid key
                    file.seek(0)
                    if owner is None:
                        return file.read(), None
                    begun = await asyncio.to_thread(file.read)
            finally:
                strangers.give_back(address, size)
    except TimeoutError:
        hint = "send the key in the Authorization header, or as the first field"
        raise HTTPException(
            408, f"The server found no API key within {SECONDS:g} s of the body's beginning: {hint}"
        ) from None
    return await collected(request, chunks, owner=owner, begun=begun), owner
