"""JSON or the bare video? Segmind's published samples disagree, and the URL is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Form = Literal["json", "binary"]
RawHeaders = Sequence[tuple[bytes, bytes]]

NAMES: dict[str, Form] = {"json": "json", "binary": "binary"}


def choose(query: str | None, base64: bool, headers: RawHeaders, setting: str = "auto") -> Form:
    """The first of these that decides: the query (`response`), the header, `base64`, Accept, our setting, the calling
    program.

    `headers`: as received, with lower-case names, in order.
    """
    first = {name.decode("latin-1"): value.decode("latin-1").lower() for name, value in reversed(headers)}
    explicit = (query or "").lower() or first.get("x-response-format", "").strip()
    if explicit in NAMES:
        return NAMES[explicit]
    if base64:
        return "json"
    accepted = {part.partition(";")[0].strip() for part in first.get("accept", "").split(",")}
    if "application/octet-stream" in accepted or any(kind.startswith("video/") for kind in accepted):
        return "binary"
    if "application/json" in accepted and "*/*" not in accepted:
        return "json"
    if setting in NAMES:
        return NAMES[setting]
    agent = first.get("user-agent", "")
    if "x-initiator" in first or agent.startswith("segmind-"):
        return "binary"
    return "json" if agent.startswith("python-requests") and _type_before_length(headers) else "binary"


def _type_before_length(headers: RawHeaders) -> bool:
    """True for a script that spells out its Content-Type, as the pages that read `.json()` do.

    python-requests sends a caller's own Content-Type before the Content-Length and one it made itself after it. The
    scripts that read `.content` set the key header only.
    """
    names = [name for name, _ in headers if name in (b"content-type", b"content-length")]
    return names[:2] == [b"content-type", b"content-length"]
