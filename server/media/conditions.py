"""HTTP's conditional requests and ranges (RFC 9110, sections 13 and 14).

Knows: headers, an ETag, a time, a size. Does not know: where files are stored, how they are sent.
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
SPEC = re.compile(r"(\d{0,1000})-(\d{0,1000})", re.ASCII)  # a number may be far beyond the file's end
MOST_RANGES = 100
KEPT = ("etag", "last-modified", "cache-control", "accept-ranges", "x-content-type-options")

Part = tuple[int, int]  # the index of the first byte, and of the byte after the last


@dataclass(frozen=True)
class Wanted:
    """What to send. `status`: 200 for the whole file, 206 for `parts` of it; 304, 412 and 416 without a body."""

    status: Literal[200, 206, 304, 412, 416]
    parts: tuple[Part, ...] = ()


def wanted(headers: Headers, tag: str, modified: float, size: int) -> Wanted:
    """Decides what to send for a GET or HEAD with these headers. `modified`: unix seconds."""
    modified = int(modified)  # the header's time has no fractions of a second
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
    """The parts of a file that a Range header names; an empty list when all ranges are beyond the file's end.

    None for a header that must be ignored: empty, malformed, in another unit than bytes, or with too many ranges.
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
    """The response with status 304, 412 or 416 for a file whose normal response has these `headers`."""
    kept = {name: value for name, value in headers.items() if name in KEPT or name.startswith("access-control-")}
    if what.status == 416:
        kept["content-range"] = f"bytes */{size}"
    return Response(None, what.status, kept)


def _plain(tag: str) -> str:
    return tag.removeprefix("W/")


def _time(text: str | None) -> float | None:
    """The unix seconds of an HTTP date; None for anything else."""
    try:
        found = parsedate_to_datetime(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
