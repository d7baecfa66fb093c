"""Image files that are cheap to make and take very much time or memory to decode."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def empty_chunks(count: int, kind: bytes = b"tEXt") -> bytes:
    """An 8x8 PNG with `count` empty chunks before its pixel data, or within it if `kind` is IDAT."""
    return with_chunks(chunk(kind) * count)


def small_png(side: int = 64) -> bytes:
    made = io.BytesIO()
    Image.effect_noise((side, side), 50).convert("RGB").save(made, "PNG")
    return made.getvalue()


def flat_png(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: bool = False) -> bytes:
    """A black PNG that takes only a few kB at any width and height. `colour` is 0 for grey, 2 for RGB, 3 for a palette,
    4 for grey with alpha, 6 for RGBA."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    packer, data = zlib.compressobj(1), b""
    for left, top, across, down in passes if interlaced else [(0, 0, 1, 1)]:
        row = bytes(1 + (-(-(width - left) // across) * channels * depth + 7) // 8)
        data += b"".join(packer.compress(row) for _ in range(-(-(height - top) // down)))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return PNG + chunk(b"IHDR", head) + palette + chunk(b"IDAT", data + packer.flush()) + chunk(b"IEND")


def many_scans(width: int, height: int, scans: int, size: int | None = None) -> bytes:
    """A progressive JPEG whose last scan is repeated until the file has `scans` scans, padded to `size` bytes."""
    made = io.BytesIO()
    Image.new("RGB", (width, height), (90, 20, 20)).save(made, "JPEG", progressive=True, quality=60)
    data = made.getvalue()
    begins = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    last = data[begins[-1] : -2]  # from the last scan to the end of the image
    whole = data[:-2] + last * (scans - len(begins)) + data[-2:]
    return whole if size is None else whole[:-2] + bytes(max(0, size - len(whole))) + whole[-2:]


def tiny_segments(count: int) -> bytes:
    """A JPEG that begins with `count` empty comments."""
    made = io.BytesIO()
    Image.new("RGB", (32, 32)).save(made, "JPEG")
    return made.getvalue()[:2] + b"\xff\xfe\x00\x02" * count + made.getvalue()[2:]


def gif_of(frames: int, comments: int = 0) -> bytes:
    """A GIF with `frames` frames of 8x8, after `comments` comment blocks of 255 bytes."""
    made = io.BytesIO()
    Image.new("P", (8, 8)).save(made, "GIF")
    data = made.getvalue()
    head, frame = data[: data.index(b"\x2c")], data[data.index(b"\x2c") : -1]
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * comments + b"\0" if comments else b""
    return head + comment + frame * frames + b"\x3b"


def flat_webp(width: int, height: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGBA", (width, height)).save(made, "WEBP", lossless=True, method=0)
    return made.getvalue()


def exif_of(entries: int, bytes_each: int) -> bytes:
    """A small JPEG whose EXIF has a rotation and `entries` further tags that all refer to the same bytes."""
    made = io.BytesIO()
    Image.new("RGB", (32, 32)).save(made, "JPEG")
    fields = [struct.pack("<HHII", 0x0112, 3, 1, 6)]
    fields += [struct.pack("<HHII", 0x9000 + n, 7, bytes_each, 8) for n in range(entries)]
    tags = b"Exif\0\0II\x2a\0\x08\0\0\0" + struct.pack("<H", len(fields)) + b"".join(fields) + bytes(4)
    tags = tags.ljust(65_000, b"\0")
    return made.getvalue()[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + made.getvalue()[2:]


def with_chunks(chunks: bytes) -> bytes:
    """An 8x8 PNG with these chunks before its pixel data."""
    small = small_png(8)
    begin = small.index(b"IDAT") - 4
    return small[:begin] + chunks + small[begin:]


def unfolding_profile(mib: int) -> bytes:
    """A PNG with a colour profile of `mib` MiB that is compressed to about a thousandth of its size."""
    packer = zlib.compressobj(9)
    profile = b"".join(packer.compress(bytes(2**20)) for _ in range(mib)) + packer.flush()
    return with_chunks(chunk(b"iCCP", b"x\0\0" + profile))


def unfolding_texts(count: int) -> bytes:
    """A PNG with `count` texts of just under 1 MiB. Pillow allows 1 MiB for one text and 64 MiB for all texts."""
    text = zlib.compress(bytes(2**20 - 10))
    return with_chunks(b"".join(chunk(b"zTXt", b"k%d\0\0" % n + text) for n in range(count)))


def tags_png(entries: int) -> bytes:
    """A PNG whose EXIF has `entries` tags that each claim to hold a million bytes."""
    tag = struct.pack("<HHII", 0x9000, 7, 10**6, 8)
    return with_chunks(chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + tag * entries))
