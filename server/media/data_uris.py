"""Decodes files that a client sends as text: data: URIs and bare base64. Each piece is decoded in little time.

Knows: both alphabets of base64, percent escapes, limits. Does not know: the expected content. The iterators returned
here raise TooLarge and DownloadFailed only while a caller reads them.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from server.limits.room import Writable
from server.limits.steps import steps
from server.media.outbound import DownloadFailed, TooLarge

ESCAPES = 100_000  # percent escapes in a data: URI; a base64 URI has almost none
HEAD = 8192  # the comma of a data: URI must be within this many characters
SPACE = b" \t\n\r\v\f"
STANDARD = bytes.maketrans(b"-_", b"+/")


class NotBase64(DownloadFailed):
    def __init__(self) -> None:
        super().__init__("it is neither an http(s) URL, nor a data: URI, nor base64")


@dataclass(frozen=True)
class Head:
    """The head of a data: URI. `media_type`: lower case, "" if missing. `begin`: the index where the data starts."""

    media_type: str
    is_base64: bool
    begin: int


def head_of(text: str) -> Head | None:
    """None for text that is not a data: URI. Raises DownloadFailed for a data: URI without a comma."""
    if text[:HEAD].lstrip()[:5].lower() != "data:":
        return None
    comma = text.find(",", 0, HEAD)
    if comma < 0:
        raise DownloadFailed("the data: URI has no comma")
    media_type, *options = (part.strip() for part in text[:comma].lstrip()[5:].lower().split(";"))
    return Head(media_type, "base64" in options, comma + 1)


def from_text(text: str, limit: int) -> Iterator[bytes]:
    """Decodes a data: URI or bare base64 of at most `limit` bytes."""
    head = head_of(text)
    if head is None:
        return from_base64(encoded(text), limit)
    if len(text) - head.begin > limit * 4:
        raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
    data = unescaped(text, head.begin)
    return from_base64(data, limit) if head.is_base64 else data


def unescaped(text: str, begin: int = 0) -> Iterator[bytes]:
    """Decodes the percent escapes of the text, starting at index `begin`."""
    escapes, left = 0, ""
    for at, end in steps(begin, len(text)):
        piece = left + text[at:end]
        cut = piece.find("%", max(0, len(piece) - 2)) if end < len(text) else -1  # an escape cut off by the step's end
        piece, left = (piece[:cut], piece[cut:]) if cut >= 0 else (piece, "")
        # each escape becomes a Python object, and nothing else runs while these are created
        escapes += piece.count("%")
        if escapes > ESCAPES:
            raise DownloadFailed(f"the data: URI has more than {ESCAPES} percent escapes; send it as base64")
        yield unquote_to_bytes(piece.encode("utf-8", "replace"))


def encoded(text: str, begin: int = 0) -> Iterator[bytes]:
    """Encodes the text in UTF-8, starting at index `begin`."""
    return (text[at:end].encode("utf-8", "replace") for at, end in steps(begin, len(text)))


def from_base64(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Decodes both alphabets of base64, with or without whitespace and padding. Any other text raises NotBase64."""
    left, size, padded = b"", 0, False
    for piece in pieces:
        plain = piece.translate(STANDARD, SPACE)
        digits = plain.rstrip(b"=")
        if padded and digits:
            raise NotBase64
        padded = padded or len(digits) < len(plain)
        digits = left + digits
        size += len(digits) - len(left)
        if size * 3 // 4 > limit:
            raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
        whole = len(digits) - len(digits) % 4
        left = digits[whole:]
        yield _decoded(digits[:whole])
    yield _decoded(left + b"=" * (-len(left) % 4))


def _decoded(digits: bytes) -> bytes:
    try:
        return binascii.a2b_base64(digits, strict_mode=True)
    except binascii.Error:
        raise NotBase64 from None


def pour(pieces: Iterable[bytes], limit: int, file: Writable) -> None:
    """Writes the pieces to `file`, at most `limit` bytes. Raises TooLarge, DownloadFailed and what `file.write`
    raises."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
        file.write(piece)
