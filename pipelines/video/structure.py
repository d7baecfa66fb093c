"""Count the parts of an image file before a library reads it, because a hostile file may have millions of parts.

The parts are the chunks of a PNG, the segments and scans of a JPEG, the blocks of a GIF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.video.process import MediaUnreadable

PARTS = 10_000  # chunks of a PNG, segments of a JPEG, blocks before a GIF's first image; photos have hundreds
SCANS = 100  # limit for a JPEG; encoders write ten scans, and the most thorough optimisers a few dozen

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # matches neither a stuffed 0xff nor a restart marker
_SOS, _EOI, _BARE = 0xDA, 0xD9, (0x01, 0xD8)


@dataclass(frozen=True)
class Parts:
    """`scans`: passes over the whole image, 1 unless it is a JPEG. `ended`: the file is complete (a JPEG has its end
    marker; a PNG has its last chunk, and all chunks are whole). `begun`: the last scan of every colour of a JPEG has
    begun."""

    count: int = 1
    scans: int = 1
    ended: bool = True
    begun: bool = True


def count(data: bytes) -> Parts:
    """Raises MediaUnreadable above the limits."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _chunks(data)
    if data.startswith(b"\xff\xd8"):
        return _segments(data)
    if data.startswith(b"GIF8"):
        return Parts(_blocks(data))
    return Parts()


def _chunks(data: bytes) -> Parts:
    found, position, name = 0, 8, b""
    while position < len(data):
        name = data[position + 4 : position + 8]
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        found = _counted(found + 1, "chunks")
        if name == b"IEND":
            break
    return Parts(found, ended=name == b"IEND" or position != len(data))


def _segments(data: bytes) -> Parts:
    found = scans = 0
    last: dict[int, set[bool]] = {}  # colour -> kinds of content (means, details) whose last scan has begun
    position, ended = 2, False
    while marker := _MARKER.search(data, position):
        kind, position = marker[1][0], marker.end()
        if kind == _EOI:
            ended = True
            break
        if kind == _SOS:
            scans += 1
            if scans > SCANS:
                raise MediaUnreadable("image_load_error", f"the image has more than {SCANS} scans")
            _note_scan(data[position : position + 16], last)
        if kind not in _BARE:
            position += int.from_bytes(data[position : position + 2], "big")
        found = _counted(found + 1, "segments")
    return Parts(found, max(1, scans), ended, bool(last) and all(len(parts) == 2 for parts in last.values()))


def _note_scan(head: bytes, last: dict[int, set[bool]]) -> None:
    """`head`: the bytes after the marker of a scan. A scan that omits no low bits is the last scan of the content
    (means or details) that it carries."""
    colours = head[2] if len(head) > 2 else 0
    selection = head[3 + 2 * colours : 6 + 2 * colours]
    if len(selection) < 3:
        return
    first, end, bits = selection[0], selection[1], selection[2] & 15
    for n in range(colours):
        begun = last.setdefault(head[3 + 2 * n], set())
        if bits == 0:
            begun |= {True} if first == 0 else set()
            begun |= {False} if end > 0 else set()


def _blocks(data: bytes) -> int:
    if len(data) < 13:
        return 0
    palette = 3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0
    found, position = 0, 13 + palette
    while data[position : position + 1] == b"!":
        position += 2
        while position < len(data) and (size := data[position]):
            position += 1 + size
            found = _counted(found + 1, "blocks")
        position += 1
        found = _counted(found + 1, "blocks")
    return found


def _counted(found: int, what: str) -> int:
    if found > PARTS:
        raise MediaUnreadable("image_load_error", f"the image has more than {PARTS} {what}")
    return found
