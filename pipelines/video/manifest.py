"""Write the manifest into a file (MP4 and WebM: `comment` tag, GIF: comment extension) and read it back.

The text is ASCII JSON with sorted keys on one line, so that equal manifests are equal bytes everywhere.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pipelines.video.process import ffmpeg, guarded_input

_READ_SECONDS = 60.0  # far more than reading a tag takes; a hostile file must not block the caller
_GIF_LABEL = b"\x21\xfe"
_TRAILER = b"\x3b"


MANIFEST_FORMAT = 2  # increase it when a manifest's fields change their meaning


class ManifestError(ValueError):
    """The file has no readable manifest."""


def check_format(manifest: dict[str, Any]) -> None:
    """Raises ManifestError for a manifest of another version of this project, or of another program."""
    if (found := manifest.get("format")) != MANIFEST_FORMAT:
        written = "without a format" if found is None else f"of format {found}"
        raise ManifestError(f"has a manifest {written}; this version reads format {MANIFEST_FORMAT}")


def encode(manifest: dict[str, Any]) -> str:
    """One line of ASCII JSON, keys sorted. Raises ValueError for NaN and infinities, and TypeError for types that JSON
    does not have."""
    return json.dumps(manifest, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def to_ffmetadata(text: str) -> str:
    """The text of an ffmetadata file with the tag `comment`. ffmpeg gets the tag in a file, because a command-line
    argument is limited to 128 KiB."""
    escaped = "".join("\\" + c if c in "=;#\\\n" else c for c in text)
    return f";FFMETADATA1\ncomment={escaped}\n"


def add_gif_comment(path: Path, text: str) -> None:
    """Put `text` (ASCII) into the GIF at `path` as a comment extension: GIF89a section 24, blocks of <= 255 bytes.

    The comment goes before the first frame, where other programs expect it. If the GIF has a loop extension, the
    comment goes after that extension.
    """
    data = text.encode("ascii")
    blocks = b"".join(bytes([len(part := data[i : i + 255])]) + part for i in range(0, len(data), 255))
    gif = path.read_bytes()
    at = 13 + _colour_table_bytes(gif[10])
    if gif[at : at + 2] == b"\x21\xff":
        _, at = _sub_blocks(gif, at + 2)
    path.write_bytes(gif[:at] + _GIF_LABEL + blocks + b"\x00" + gif[at:])


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest in an MP4, WebM or GIF that `VideoWriter` wrote. Raises ManifestError if it is missing or
    damaged."""
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
        raise ManifestError(f"{path.name} has a comment that is not a manifest") from e
    if not isinstance(found, dict):
        raise ManifestError(f"{path.name} has a comment that is not a manifest")
    return found


def _comment_tag(path: Path) -> str | None:
    command = [ffmpeg(), "-v", "error", "-nostdin", *guarded_input(path), "-f", "ffmetadata", "pipe:1"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_READ_SECONDS)
    except subprocess.SubprocessError as e:
        raise ManifestError(f"{path.name} is torn or of a foreign kind") from e
    return _parse_ffmetadata(done.stdout.decode("utf-8", "replace"))


def _parse_ffmetadata(text: str) -> str | None:
    """The global `comment`. A backslash escapes the next character, including a line break."""
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
    """The last comment extension. The GIF is read block by block, so that pixels are never mistaken for a label."""
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
    """The joined blocks that begin at `at`, and the position after them. Raises IndexError if the data ends first."""
    parts = []
    while size := data[at]:
        parts.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return b"".join(parts), at + 1
