"""The header of a safetensors file: what tensors it holds, and whether all their bytes are there.

Knows: the file format (8 bytes little-endian header length, JSON, then the tensors' bytes without a gap).
Does not know: torch, checkpoints. Source: the format section of the safetensors README.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

_HEADER_LIMIT = 100_000_000  # bytes; the reference reader's own bound
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_WIDTHS |= {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}


class BrokenFile(ValueError):
    """The file is not a whole safetensors file; the message says why."""


@dataclass(frozen=True)
class Tensor:
    """dtype in the format's own words (F16, BF16 ...)."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name. Raises BrokenFile, or OSError where it cannot be opened at all."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(32)).startswith(b"version https://git-lfs"):
            raise BrokenFile("this is a Git LFS pointer, not the weights: run `git lfs pull` where it came from")
        file.seek(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= _HEADER_LIMIT:
            raise BrokenFile("not a safetensors file")
        if size < 8 + length:
            raise BrokenFile(f"torn: {size} bytes, its header alone says {8 + length}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = {name: Tensor(t["dtype"], tuple(map(int, t["shape"]))) for name, t in header.items()}
        spans = sorted((int(t["data_offsets"][0]), int(t["data_offsets"][1]), name) for name, t in header.items())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BrokenFile("its header cannot be read") from error
    position = 0
    for begin, end, name in spans:
        width = _WIDTHS.get(tensors[name].dtype)
        if begin != position or end < begin or (width and end - begin != width * math.prod(tensors[name].shape)):
            raise BrokenFile(f"its header contradicts itself at {name}")
        position = end
    if size != 8 + length + position:
        torn = "torn: " if size < 8 + length + position else ""
        raise BrokenFile(f"{torn}{size} bytes, its header says {8 + length + position}")
    return tensors
