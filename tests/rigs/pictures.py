"""Images as clients send them, and a PNG with very many pixels in a small file."""

from __future__ import annotations

import io
import zlib

from PIL import Image


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, kind)
    return data.getvalue()


def bomb() -> bytes:
    """A PNG of 20000 x 20000 pixels in some 50 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (20000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(2501 * 20000)))
        + chunk(b"IEND", b"")
    )
