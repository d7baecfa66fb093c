"""Hostile safetensors headers: each is refused with one sentence, before its numbers are used in computations."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.rigs import pace
from weights import safetensors_header
from weights.safetensors_header import BrokenFile, read_header, read_whole_header


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def tensor(*shape: int, begin: int = 0, end: int = 4, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_good_header_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a", {"__metadata__": {"alpha": "1"}, "b": tensor(2, begin=4, end=12), "a": tensor(1)}, bytes(12)
    )
    header = read_whole_header(path)
    assert header.metadata == {"alpha": "1"}
    assert {name: one.shape for name, one in header.tensors.items()} == {"a": (1,), "b": (2,)}
    assert header.tensors["b"].begin == path.stat().st_size - 8


HUGE = int("9" * 4000)
MANY = safetensors_header.TENSORS + 1
REFUSED: dict[str, tuple[Any, str]] = {
    "dimensions without end": ({"a": tensor(*[2**61] * 60_000)}, "60000 dimensions, the limit is 8"),
    "a dimension of thousands of digits": ({"a": tensor(HUGE)}, "a number of 4000 digits"),
    "a dimension beyond the parser": (b'{"a":{"shape":[' + b"9" * 100_000 + b"]}}", "a number of 100000 digits"),
    "dimensions whose product overflows": ({"a": tensor(*[2**61] * 8)}, "contradicts itself at a"),
    "a negative dimension": ({"a": tensor(-1, -1)}, "cannot be read at a"),
    "a dimension that is true": ({"a": tensor(True)}, "cannot be read at a"),
    "a dimension with a fraction": (b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', "not an integer"),
    "an infinite dimension": (b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', "cannot be read at a"),
    "more tensors than any model has": ({f"t{n}": tensor(0, end=0) for n in range(MANY)}, f"has {MANY} tensors"),
    "a name that does not end": ({"model." * 100_000 + "a": tensor(1)}, "more than 500 characters"),
    "a name twice": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', "has a duplicate name"),
    "nested without end": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "cannot be read"),
    "metadata without end": ({"__metadata__": {str(n): "" for n in range(20_000)}, "a": tensor(1)}, "its metadata"),
    "metadata that is a list": ({"__metadata__": ["a"], "a": tensor(1)}, "its metadata"),
    "overlapping tensors": ({"a": tensor(1), "b": tensor(1, begin=2, end=6)}, "contradicts itself at b"),
    "a gap between tensors": ({"a": tensor(1), "b": tensor(1, begin=5, end=9)}, "contradicts itself at b"),
    "offsets that go backwards": ({"a": tensor(1, begin=4, end=0)}, "contradicts itself at a"),
    "offsets beyond the file": ({"a": tensor(2**40, end=2**42)}, "torn"),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, "contradicts itself at a"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, "cannot be read at a"),
    "a header that is a list": ([1], "cannot be read"),
    "a header that is a number": (b"12", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_headers(tmp_path: Path, name: str) -> None:
    header, match = REFUSED[name]
    path = written(tmp_path / "x", header, bytes(4))
    begun = time.process_time()
    with pytest.raises(BrokenFile, match=match) as caught:
        read_header(path)
    assert time.process_time() - begun < pace.seconds(2)
    assert len(str(caught.value)) < 300


def test_a_header_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write((safetensors_header.HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(safetensors_header.HEADER_BYTES * 2)
    with pytest.raises(BrokenFile, match="its header has more than 8 MiB"):
        read_header(path)


def test_the_worst_header_inside_the_limits_is_quick(tmp_path: Path) -> None:
    """The header has the largest number of tensors, with the longest names that fit."""
    count = safetensors_header.TENSORS
    length = min(safetensors_header.NAME_LENGTH, safetensors_header.HEADER_BYTES // count - 100)
    worst = {f"{n:0{length}d}": tensor(*[1] * 8, begin=n, end=n + 1, dtype="U8") for n in range(count)}
    path = written(tmp_path / "x", worst, bytes(count))
    begun = time.process_time()
    assert len(read_header(path)) == count
    assert time.process_time() - begun < pace.seconds(3)
