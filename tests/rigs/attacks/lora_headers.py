"""LoRA files whose headers are as large as may be."""

from __future__ import annotations

import json
from typing import Any


def lora(header: Any, data: int = 4) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(data)


def of_bytes(count: int, name: str) -> bytes:
    """`count` tensors of one byte each."""
    tensors = {name.format(n): {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(count)}
    return lora(tensors, count)
