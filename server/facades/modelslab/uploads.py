"""Decodes files that are sent as base64 in a JSON body. A few kinds of file are recognized by their first bytes."""

from __future__ import annotations

import re

from server.media.data_uris import from_text, head_of
from server.media.outbound import DownloadFailed
from server.media.uploads import UPLOAD_BYTES

FIRST_BYTES = (
    (re.compile(rb"\x89PNG\r\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "image/heic"),
    (re.compile(rb"....ftyp", re.DOTALL), "video/mp4"),
    (re.compile(rb"\x1aE\xdf\xa3"), "video/webm"),
    (re.compile(rb"II\*\0|MM\0\*"), "image/tiff"),
)


def decoded(text: str) -> tuple[list[bytes], str]:
    """Returns the decoded pieces of a data URI or of plain base64, and the media type. If the text names no media type,
    the first bytes of the file determine the media type. The media type of an unknown kind of file is "".

    Raises ValueError with the reason.
    """
    try:
        head = head_of(text)
    except DownloadFailed:  # no comma
        raise ValueError("the data: URI does not hold base64") from None
    if head is not None and not head.is_base64:
        raise ValueError("the data: URI does not hold base64")
    try:
        pieces = [piece for piece in from_text(text, UPLOAD_BYTES) if piece]
    except DownloadFailed:
        raise ValueError("it is neither a data: URI nor base64") from None
    if not pieces:
        raise ValueError("the file is empty")
    start = b"".join(pieces[:2])  # two pieces, because the last bytes of a short file are a separate piece
    said = head.media_type if head is not None else ""
    return pieces, said or next((kind for first, kind in FIRST_BYTES if first.match(start)), "")
