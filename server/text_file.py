"""Text files written with any editor: batch files, `.env`.

Knows: encodings and line ends. Does not know: the content of the lines.
"""

from __future__ import annotations

import codecs
from pathlib import Path

BOMS = (  # UTF-32 first, because its mark begins with UTF-16's mark
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)


class NotText(ValueError):
    """The message names the file and, if possible, the line."""


def encoding_of(data: bytes) -> str:
    """The encoding that the byte order mark names; UTF-8 for a file without a mark. PowerShell's `>` writes a mark."""
    return next((encoding for bom, encoding in BOMS if data.startswith(bom)), "utf-8-sig")


def read_lines(file: Path) -> list[str]:
    """The lines without their ends, \\n or \\r\\n; other separators do not end a line.

    Raises NotText, OSError.
    """
    data = file.read_bytes()
    encoding = encoding_of(data)
    if encoding == "utf-8-sig" and _is_wide(data):
        raise NotText(f"{file} looks like UTF-16 without a byte order mark; save it as UTF-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        if encoding != "utf-8-sig":
            raise NotText(f"{file} is not UTF-8 text, and damaged {encoding.upper()}; save it as UTF-8") from None
        number = data[: e.start].count(b"\n") + 1
        raise NotText(f"{file}:{number}: not UTF-8 text (byte 0x{data[e.start]:02X}); save the file as UTF-8") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise NotText(f"{file}:{number}: it contains a NUL character")
    return lines


def _is_wide(data: bytes) -> bool:
    """Whether nearly every second byte at the beginning of the file is 0, as in UTF-16."""
    some = data[: min(len(data), 200) // 2 * 2]
    return any(2 * some[start::2].count(0) > len(some) * 0.8 for start in (0, 1)) and len(some) >= 4
