"""Finds NaN and infinity in a weights file, which a failed training leaves behind.

It reads the whole file in pieces, without torch. It recognises NaN and infinity by their exponent bits, which are all
set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weights.safetensors_header import read_header

_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
_WIDTH = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
_PIECE = 2**24  # bytes


def broken_tensor(path: Path) -> str | None:
    """The name of the first tensor with NaN or infinity; None if all are finite. Raises BrokenFile, OSError."""
    with path.open("rb") as file:
        for name, tensor in sorted(read_header(path).items(), key=lambda item: item[1].begin):
            if (exponent := _EXPONENT.get(tensor.dtype)) is None:
                continue
            kind = np.dtype(f"<u{_WIDTH[tensor.dtype]}")
            file.seek(tensor.begin)
            for at in range(tensor.begin, tensor.end, _PIECE):
                values = np.frombuffer(file.read(min(_PIECE, tensor.end - at)), kind)
                if bool(((values & kind.type(exponent)) == exponent).any()):
                    return name
    return None
