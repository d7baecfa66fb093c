"""What a client has of a file already, and which part of it is wanted: HTTP's conditions and ranges (RFC 9110, 13, 14).

Knows: headers, an ETag, a time, a size. Does not know: where files lie, how they are sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal

from starlette.datastructures import Headers
from starlette.responses import Response

TAG = re.compile(r'(?:W/)?"[^"]*"')
SPEC = re.compile(r"(\d{0,1000})-(\d{0,1000})", re.ASCII)  # a number may lie as far behind the end as it likes
MOST_RANGES = 100
KEPT = ("etag", "last-modified", "cache-control", "accept-ranges", "x-content-type-options")

Part = tuple[int, int]  # from the first byte to behind the last


@dataclass(frozen=True)
class Wanted:
    """`status`: 200 for all of the file, 206 for `parts` of it, 304, 412 and 416 for none."""

    status: Literal[200, 206, 304, 412, 416]
    parts: tuple[Part, ...] = ()


def wanted(headers: Headers, tag: str, modified: float, size: int) -> Wanted:
    """What a GET or HEAD with these headers is to be answered with. `modified` in unix seconds."""
    modified = int(modified)  # the header has no fractions
    if "if-match" in headers:
        known = ",".join(headers.getlist("if-match"))
        if known.strip() != "*" and tag not in TAG.findall(known):
            return Wanted(412)
    elif (since := _time(headers.get("if-unmodified-since"))) is not None and modified > since:
        return Wanted(412)
    if "if-none-match" in headers:
        known = ",".join(headers.getlist("if-none-match"))
        if known.strip() == "*" or _plain(tag) in map(_plain, TAG.findall(known)):
            return Wanted(304)
    elif (since := _time(headers.get("if-modified-since"))) is not None and modified <= since:
        return Wanted(304)
    condition = headers.get("if-range")
    if condition is not None and condition.strip() not in (tag, formatdate(modified, usegmt=True)):
        return Wanted(200)
    parts = ranges_of(headers.get("range", ""), size)
    if parts is None:
        return Wanted(200)
    return Wanted(206 if parts else 416, tuple(parts))


def ranges_of(asked: str, size: int) -> list[Part] | None:
    """The parts of a file that a Range header names, none when they all lie behind its end.

    None for a header that is to be ignored: no header, another unit than bytes, what is no range, too many.
    """
    unit, _, specs = asked.partition("=")
    listed = [spec for part in specs.split(",") if (spec := part.strip(" \t"))]
    if unit.strip().lower() != "bytes" or not 0 < len(listed) <= MOST_RANGES:
        return None
    found = []
    for spec in listed:
        ends = SPEC.fullmatch(spec)
        if ends is None or not any(ends.groups()):
            return None
        first, last = ends.groups()
        if first and last and int(last) < int(first):
            return None
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin < end:
            found.append((begin, end))
    return found


def bodiless(what: Wanted, headers: dict[str, str], size: int) -> Response:
    """The answer of status 304, 412 or 416 about a file that is sent with `headers` otherwise."""
    kept = {name: value for name, value in headers.items() if name in KEPT or name.startswith("access-control-")}
    if what.status == 416:
        kept["content-range"] = f"bytes */{size}"
    return Response(None, what.status, kept)


def _plain(tag: str) -> str:
    return tag.removeprefix("W/")


def _time(text: str | None) -> float | None:
    """Unix seconds of a date of HTTP's; None for what is none."""
    try:
        found = parsedate_to_datetime(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
