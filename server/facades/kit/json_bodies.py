"""Parses JSON bodies within limits. Parsing a large body does not block the server.

Knows: limits on values, escapes, numbers. Does not know: fields, vendors' error shapes.

The JSON parser processes a document in one call, which takes long for a large document. The long texts of such a
document are files in base64. Therefore these texts are cut out first and decoded in steps, and the parser gets the
document with a mark in place of each long text.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any, NoReturn

from server.limits.steps import LARGE, STEP, in_turn, steps

MAX_VALUES = 100_000  # per body: the parser would take seconds for 100 MB of `0,0,0`
MAX_ESCAPES = 4_000_000  # per body: base64 with escaped slashes has one escape in 64 characters
LONGEST_NUMBER = 1000  # characters: parsing a number takes time quadratic in its length
LONG = 64 * 2**10  # bytes; longer texts are cut out
MOST_BESIDE = 8 * 2**20  # bytes of a document without its long texts
ESCAPE = 6  # bytes of the longest escape, such as \u0041
HALF_PAIR = (b"\\ud8", b"\\ud9", b"\\uda", b"\\udb")  # how the first of the two escapes of a surrogate pair begins
QUOTE, BACKSLASH = b'"\\'
CONTINUATION = bytes(range(0x80, 0xC0))  # all bytes of a UTF-8 character except its first byte


class BadBody(Exception):
    """The body is not valid JSON. `position`: the index of the invalid character."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


async def parsed(body: bytes, owner: str = "") -> Any:
    """Like `parse_json`, but a large body waits for the turn of `owner` and is parsed in a thread."""
    if len(body) <= LARGE:
        return parse_json(body)
    return await in_turn(owner, len(body), parse_json, body)


def parse_json(body: bytes) -> Any:
    """The document in `body`, or None if `body` is empty. Many requests without a body have a JSON content type. Raises
    BadBody."""
    if all(body[begin:end].isspace() for begin, end in steps(0, len(body))):
        return None
    if _count(body, b",", b"[", b"{") > MAX_VALUES:  # base64 contains none of these
        raise BadBody(f"The body holds more than {MAX_VALUES} values")
    if len(body) > MAX_ESCAPES and _count(body, b"\\") > MAX_ESCAPES:
        raise BadBody(f"The body holds more than {MAX_ESCAPES} escapes")
    if len(body) <= LARGE:
        return _parsed(body)
    cut = _cut(body)
    try:
        document = [_parsed(cut.rest)]
    except BadBody as e:
        raise BadBody(e.message, cut.position(e.position)) from None
    _put_back(document, cut.texts)
    return document[0]


def _count(body: bytes, *marks: bytes) -> int:
    return sum(body.count(mark, begin, end) for begin, end in steps(0, len(body)) for mark in marks)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant, parse_int=_integer, parse_float=_real)
    except json.JSONDecodeError as error:
        raise BadBody(error.msg, error.pos) from error
    except UnicodeDecodeError as error:
        raise BadBody("The body is not UTF-8", error.start) from error
    except RecursionError as error:
        raise BadBody("The body is nested too deeply") from error


@dataclass(frozen=True)
class Cut:
    """A document without its long texts. `rest`: the document with a mark in place of each long text. `texts`: mark ->
    text. `longer`: mark -> how many more characters the text has than the mark."""

    rest: bytes
    texts: dict[str, str]
    longer: dict[str, int]

    def position(self, at: int) -> int:
        """Converts an index in `rest` to the index in the whole document."""
        rest = self.rest.decode("utf-8-sig", "replace")
        return at + sum(longer for mark, longer in self.longer.items() if rest.find(mark) < at)


def _cut(body: bytes) -> Cut:
    """Raises BadBody."""
    texts, longer, pieces = dict[str, str](), dict[str, int](), list[bytes]()
    token, kept, at = secrets.token_hex(16), 0, 0
    for _ in range(2 * MAX_VALUES + 2):  # each value has at most two texts: its name and the value
        begin = body.find(QUOTE, at) + 1
        if not begin:
            pieces.append(body[kept:])
            break
        end = _end_of_text(body, begin)
        if end < 0:  # unterminated: the parser reports it
            pieces.append(body[kept:begin])
            break
        if end - begin > LONG:
            mark = f"{token} {len(texts)}"
            pieces += body[kept:begin], mark.encode()
            texts[mark], characters = _text(body, begin, end)
            longer[mark] = characters - len(mark)
            kept = end
        at = end + 1
    else:
        raise BadBody(f"The body holds more than {MAX_VALUES} values")
    if sum(map(len, pieces)) > MOST_BESIDE:
        raise BadBody(f"The body holds more than {MOST_BESIDE // 2**20} MiB beside its long texts")
    return Cut(b"".join(pieces), texts, longer)


def _end_of_text(body: bytes, at: int) -> int:
    """The index of the quote that ends the text beginning at `at`; -1 if the text has no such quote."""
    begin = at
    while (at := body.find(QUOTE, at)) >= 0 and _is_escaped(body, at, begin):
        at += 1
    return at


def _is_escaped(body: bytes, at: int, begin: int) -> bool:
    """Whether an odd number of backslashes precedes the index `at`. The text begins at the index `begin`."""
    run = at
    while run > begin and body[run - 1] == BACKSLASH:
        run -= 1
    return (at - run) % 2 == 1


def _text(body: bytes, begin: int, end: int) -> tuple[str, int]:
    """Returns the decoded text between two quotes, and the number of characters of this text in the body. Raises
    BadBody."""
    pieces, characters, start = list[str](), 0, begin
    while start < end:
        stop = min(start + STEP, end)
        if stop < end:
            stop = _boundary(body, start, stop)
        try:
            raw = body[start:stop].decode()
            pieces.append(json.loads(f'"{raw}"'))
        except UnicodeDecodeError as error:
            raise BadBody("The body is not UTF-8", start + error.start) from None
        except json.JSONDecodeError as error:
            raise BadBody(error.msg, _characters(body, begin) + characters + error.pos - 1) from None
        characters += len(raw)
        start = stop
    return "".join(pieces), characters


def _characters(body: bytes, end: int) -> int:
    return sum(len(body[at:stop].translate(None, CONTINUATION)) for at, stop in steps(0, end))


def _boundary(body: bytes, start: int, stop: int) -> int:
    """The last index up to `stop` that is not inside a character, an escape or a surrogate pair of escapes."""
    for _ in range(3):
        if body[stop] & 0xC0 == 0x80:
            stop -= 1
    last = body.rfind(BACKSLASH, stop - ESCAPE, stop)
    if last >= 0:
        if _is_escaped(body, last, start):
            last -= 1
        stop = last if last + (ESCAPE if body[last + 1] == ord("u") else 2) > stop else stop
    half = stop - ESCAPE
    if body[half : half + 4].lower() in HALF_PAIR and not _is_escaped(body, half, start):
        stop = half
    return stop


def _put_back(document: list[Any], texts: dict[str, str]) -> None:
    """Replaces each mark within `document` by the text for that mark."""
    waiting: list[Any] = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict) and not texts.keys().isdisjoint(one):
            fields = [(texts.get(name, name), value) for name, value in one.items()]
            one.clear()
            one.update(fields)
        for place, value in list(one.items() if isinstance(one, dict) else enumerate(one)):
            if isinstance(value, str):
                one[place] = texts.get(value, value)
            elif isinstance(value, dict | list):
                waiting.append(value)


def _integer(text: str) -> int:
    return int(_short(text))


def _real(text: str) -> float:
    return float(_short(text))


def _short(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise BadBody("The body holds a number that is too long")
    return text


def _no_constant(name: str) -> NoReturn:
    raise BadBody(f"{name} is not a JSON value")
