"""Reads the header of a safetensors file: its tensors, and whether the file is complete.

The format has 8 bytes of little-endian header length, then JSON, then the tensors' bytes without gaps. Source: the
format section of the safetensors README.

The header may be hostile. Every number in it is checked before it is used, and the limits below are far above the
numbers in published checkpoints and LoRAs (a few thousand tensors, headers below 1 MiB).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

HEADER_BYTES = 8 * 2**20
TENSORS = 20_000
DIMENSIONS = 8
NAME_LENGTH = 500  # characters
METADATA_ENTRIES = 10_000
_DIGITS = 20  # maximum digits of a number; 2**64 has 20
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_WIDTHS |= {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}


class BrokenFile(ValueError):
    """The file is not a complete safetensors file; the message says why."""


@dataclass(frozen=True)
class Tensor:
    """`dtype`: the format's name (F16, BF16 ...). `begin`, `end`: bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name. Raises BrokenFile, or OSError if the file cannot be opened."""
    return read_whole_header(path).tensors


def read_whole_header(path: Path) -> Header:
    """Like `read_header`, with the metadata."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(32)).startswith(b"version https://git-lfs"):
            raise BrokenFile("this is a Git LFS pointer, not the weights: run `git lfs pull` in its repository")
        file.seek(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length < 2:
            raise BrokenFile("not a safetensors file")
        if size < 8 + length and length <= HEADER_BYTES:
            raise BrokenFile(f"torn: {size} bytes, its header alone says {8 + length}")
        if length > HEADER_BYTES:
            # usually another kind of file
            limit = f"its header has more than {HEADER_BYTES // 2**20} MiB"
            raise BrokenFile(limit if size >= 8 + length else "not a safetensors file")
        raw = file.read(length)
    found = _parsed(raw)
    metadata = found.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or len(metadata) > METADATA_ENTRIES:
        raise BrokenFile(f"its metadata is not an object of at most {METADATA_ENTRIES} strings")
    if len(found) > TENSORS:
        raise BrokenFile(f"it has {len(found)} tensors, the limit is {TENSORS}")
    tensors = {name: _tensor(name, said, 8 + length) for name, said in found.items()}
    position = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        width = _WIDTHS.get(tensor.dtype)
        if tensor.begin != position or (width and tensor.end - tensor.begin != width * math.prod(tensor.shape)):
            raise BrokenFile(f"its header contradicts itself at {name}")
        position = tensor.end
    if size != position:
        torn = "torn: " if size < position else ""
        raise BrokenFile(f"{torn}{size} bytes, its header says {position}")
    return Header(tensors, {key: value for key, value in metadata.items() if isinstance(value, str)})


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw, parse_int=_integer, parse_float=_no_fraction, object_pairs_hook=_unique)
    except BrokenFile:
        raise
    except (ValueError, RecursionError) as error:
        raise BrokenFile("its header cannot be read") from error
    if not isinstance(header, dict):
        raise BrokenFile("its header cannot be read")
    return header


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise BrokenFile(f"its header has a number of {len(digits)} digits")
    return int(digits)


def _no_fraction(digits: str) -> float:
    raise BrokenFile("its header has a number that is not an integer")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BrokenFile("its header has a duplicate name")
    return found


def _tensor(name: str, said: Any, data: int) -> Tensor:
    """`data`: the position of the first tensor in the file."""
    if len(name) > NAME_LENGTH:
        raise BrokenFile(f"a tensor's name has more than {NAME_LENGTH} characters: {name[:80]}…")
    broken = BrokenFile(f"its header cannot be read at {name}")
    if not isinstance(said, dict):
        raise broken
    dtype, shape, offsets = said.get("dtype"), said.get("shape"), said.get("data_offsets")
    if not isinstance(dtype, str) or len(dtype) > 20 or not _are_sizes(shape) or not _are_sizes(offsets):
        raise broken
    if len(shape) > DIMENSIONS:
        raise BrokenFile(f"{name} has {len(shape)} dimensions, the limit is {DIMENSIONS}")
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        raise BrokenFile(f"its header contradicts itself at {name}")
    return Tensor(dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
