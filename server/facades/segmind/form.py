"""Chooses JSON or the bare video for the response. Segmind has published samples that expect JSON from a URL, and other
samples that expect the video from the same URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Form = Literal["json", "binary"]
RawHeaders = Sequence[tuple[bytes, bytes]]

NAMES: dict[str, Form] = {"json": "json", "binary": "binary"}


def choose(query: str | None, base64: bool, headers: RawHeaders, setting: str = "auto") -> Form:
    """Decides by the first of these that applies: the query (`response`), the X-Response-Format header, `base64`,
    Accept, our setting, the kind of client.

    `headers`: in the order in which they were received, with lower-case names.
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
    """True if the script itself sets the Content-Type. Segmind's samples that read `.json()` do this.

    python-requests sends a Content-Type from the script before the Content-Length, and its own Content-Type after that.
    The samples that read `.content` set only the key header.
    """
    names = [name for name, _ in headers if name in (b"content-type", b"content-length")]
    return names[:2] == [b"content-type", b"content-length"]
