"""Files sent as base64 in a JSON body.

Knows: data URIs, and a few kinds of file by their first bytes. Does not know: where files are kept.
"""

from __future__ import annotations

import base64
import binascii
import re

SPACE = re.compile(r"\s+")
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


def decoded(text: str) -> tuple[bytes, str]:
    """The bytes of a data URI or of plain base64, and their media type as said or as seen ("" when neither).

    Raises ValueError with the reason.
    """
    text, media_type = text.strip(), ""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise ValueError("the data: URI does not hold base64")
        media_type = head[5:].partition(";")[0].strip().lower()
    try:
        body = SPACE.sub("", text).rstrip("=").encode("ascii").translate(bytes.maketrans(b"-_", b"+/"))
        data = base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("it is neither a data: URI nor base64") from None
    if not data:
        raise ValueError("the file is empty")
    return data, media_type or next((kind for first, kind in FIRST_BYTES if first.match(data)), "")
