"""Files that a client sends as text: data: URIs and bare base64, decoded by single calls that take little time.

Knows: both alphabets of base64, percent escapes, limits. Does not know: what the bytes should be.
"""

from __future__ import annotations

import binascii
from urllib.parse import unquote_to_bytes

from server.media.door import DownloadFailed, TooLarge

ESCAPES = 100_000  # in a data: URI; base64 has next to none
SPACE = b" \t\n\r\v\f"
STANDARD = bytes.maketrans(b"-_", b"+/")


def from_data_uri(uri: str, limit: int) -> bytes:
    """Raises TooLarge, DownloadFailed."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise DownloadFailed("the data: URI has no comma")
    if len(body) > limit * 4:
        raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
    data = unescaped(body)
    return from_base64(data, limit) if head.lower().rstrip().endswith(";base64") else data


def unescaped(body: str) -> bytes:
    """Percent-decoded. Raises DownloadFailed."""
    # each escape becomes an object of Python's, and nothing else runs while they are made
    if body.count("%") > ESCAPES:
        raise DownloadFailed(f"the data: URI has more than {ESCAPES} percent escapes; send it as base64")
    return unquote_to_bytes(body)


def from_base64(text: str | bytes, limit: int) -> bytes:
    """Whitespace and missing padding are accepted, and both alphabets; anything else is not base64.

    Raises TooLarge, DownloadFailed.
    """
    plain = (text.encode("utf-8", "replace") if isinstance(text, str) else text).translate(STANDARD, SPACE).rstrip(b"=")
    if len(plain) * 3 // 4 > limit:
        raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
    try:
        return binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
    except binascii.Error:
        raise DownloadFailed("it is neither an http(s) URL, nor a data: URI, nor base64") from None
