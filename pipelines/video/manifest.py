"""The manifest inside a file: MP4 and WebM `comment` tag, GIF comment extension; and how to read it back.

Knows: where each container keeps a comment. Does not know: what a manifest says (any JSON object will do).
The text is ASCII JSON with sorted keys on one line, so that equal manifests are equal bytes everywhere.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pipelines.video.process import ffmpeg, guarded_input

_READ_SECONDS = 60.0  # far above what a tag takes; a hostile file must not hold the caller
_GIF_LABEL = b"\x21\xfe"
_TRAILER = b"\x3b"


class ManifestError(ValueError):
    """The file carries no manifest that can be read."""


def encode(manifest: dict[str, Any]) -> str:
    """One line of ASCII JSON, keys sorted. ValueError for NaN and infinities, TypeError for what JSON lacks."""
    return json.dumps(manifest, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def to_ffmetadata(text: str) -> str:
    """An ffmetadata file whose one tag is `comment`; a file, because a command line holds only 128 KiB a word."""
    escaped = "".join("\\" + c if c in "=;#\\\n" else c for c in text)
    return f";FFMETADATA1\ncomment={escaped}\n"


def add_gif_comment(path: Path, text: str) -> None:
    """Put `text` (ASCII) into the GIF at `path` as a comment extension: GIF89a section 24, blocks of <= 255 bytes.

    It goes before the first frame, where other programs look for it, but after the loop extension, which must be first.
    """
    data = text.encode("ascii")
    blocks = b"".join(bytes([len(part := data[i : i + 255])]) + part for i in range(0, len(data), 255))
    gif = path.read_bytes()
    at = 13 + _colour_table_bytes(gif[10])
    if gif[at : at + 2] == b"\x21\xff":
        _, at = _sub_blocks(gif, at + 2)
    path.write_bytes(gif[:at] + _GIF_LABEL + blocks + b"\x00" + gif[at:])


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest that `VideoWriter` put into an MP4, WebM or GIF. ManifestError if there is none or it is torn."""
    path = Path(path)
    try:
        with path.open("rb") as f:
            head = f.read(12)
        if head.startswith((b"GIF87a", b"GIF89a")):
            text = _gif_comment(path.read_bytes())
        elif head[4:8] == b"ftyp" or head.startswith(b"\x1a\x45\xdf\xa3"):
            text = _comment_tag(path)
        else:
            raise ManifestError(f"{path.name} is not an MP4, WebM or GIF")
    except OSError as e:
        raise ManifestError(f"{path.name} cannot be read: {e.strerror}") from e
    if text is None:
        raise ManifestError(f"{path.name} carries no manifest")
    try:
        found = json.loads(text)
    except ValueError as e:
        raise ManifestError(f"{path.name} has a comment that is no manifest") from e
    if not isinstance(found, dict):
        raise ManifestError(f"{path.name} has a comment that is no manifest")
    return found


def _comment_tag(path: Path) -> str | None:
    command = [ffmpeg(), "-v", "error", "-nostdin", *guarded_input(path), "-f", "ffmetadata", "pipe:1"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_READ_SECONDS)
    except subprocess.SubprocessError as e:
        raise ManifestError(f"{path.name} is torn or of a foreign kind") from e
    return _parse_ffmetadata(done.stdout.decode("utf-8", "replace"))


def _parse_ffmetadata(text: str) -> str | None:
    """The global `comment`. A backslash takes the next character as it is, also a line's end."""
    key, value, current, escaped = "", [], [], False
    for c in text:
        if escaped:
            current.append(c)
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == "=" and not key:
            key, current = "".join(current).lower(), []
        elif c == "\n":
            if key == "comment":
                value = current
                break
            key, current = "", []
        else:
            current.append(c)
    return "".join(value) or None


def _gif_comment(data: bytes) -> str | None:
    """The last comment extension; walks the blocks, so that pixels which look like a label are never taken for one."""
    comment: bytes | None = None
    try:
        at = 13 + _colour_table_bytes(data[10])
        while data[at : at + 1] != _TRAILER:
            is_comment = data[at : at + 2] == _GIF_LABEL
            if data[at] == 0x2C:
                at += 10 + _colour_table_bytes(data[at + 9]) + 1
            elif data[at] == 0x21:
                at += 2
            else:
                raise ManifestError("the GIF is torn")
            content, at = _sub_blocks(data, at)
            if is_comment:
                comment = content
    except IndexError as e:
        raise ManifestError("the GIF is torn") from e
    return None if comment is None else comment.decode("utf-8", "replace")


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks(data: bytes, at: int) -> tuple[bytes, int]:
    """The joined blocks that begin at `at`, and where the next thing begins. IndexError if the data end first."""
    parts = []
    while size := data[at]:
        parts.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return b"".join(parts), at + 1
