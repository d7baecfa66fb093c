"""A problem with a checkpoint's file, and safe reading of untrusted JSON files and headers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.safetensors_header import BrokenFile, Tensor, read_header

AGAIN = "get the checkpoint again: cogvideox weights pull NAME, or cogvideox weights import DIR from an intact copy"
_JSON_BYTES = 16 * 2**20  # limit for a config or an index; published ones have less than 1 MiB


@dataclass(frozen=True)
class Problem:
    """`path` is relative to the checkpoint's folder; `remedy` says what to do."""

    path: str
    what: str
    remedy: str = AGAIN

    def __str__(self) -> str:
        return f"{self.path}: {self.what} ({self.remedy})"


def read_json(folder: Path, name: str) -> tuple[dict[str, Any], Problem | None]:
    path = folder / name
    if not path.is_file():
        return {}, Problem(name, _absent(path))
    try:
        if path.stat().st_size > _JSON_BYTES:
            return {}, Problem(name, f"has more than {_JSON_BYTES // 2**20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, Problem(name, "cannot be read as JSON")
    return (content, None) if isinstance(content, dict) else ({}, Problem(name, "is not a JSON object"))


def read_tensors(folder: Path, name: str) -> tuple[dict[str, Tensor], Problem | None]:
    path = folder / name
    if not path.is_file():
        return {}, Problem(name, _absent(path))
    try:
        return dict(read_header(path)), None
    except BrokenFile as error:
        return {}, Problem(name, str(error))
    except OSError as error:
        return {}, Problem(name, f"cannot be read: {error.strerror}")


def _absent(path: Path) -> str:
    return "a link to a missing file" if path.is_symlink() else "missing"
