"""`python -m pipelines.lora.unpickle FROM TO`: convert a pickled LoRA (.pt, .bin, .ckpt) to a safetensors file.

The program reads only pickles of plain tensors, never code. Even so, it runs as a separate process with limits.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipelines import child
from pipelines.lora.layout import LoraError

MODULE = "pipelines.lora.unpickle"
SECONDS = 300.0
CPU_SECONDS = 300
MEMORY_BYTES = 6 * 2**30
ADDRESS_SPACE = 32 * 2**30  # torch's own libraries take several GiB of the address space
GROWTH = 2  # largest size of the tensors / size of the file, because a pickle can repeat a number a billion times
REFUSED = 3
NOT_PLAIN = "it is not a pickle of plain tensors"
TOO_SLOW = f"it could not be converted within {SECONDS:g} seconds"


def convert(source: Path, target: Path) -> None:
    """Raises LoraError."""
    try:
        done = child.run(MODULE, str(source), str(target), seconds=SECONDS)
    except subprocess.TimeoutExpired:
        raise LoraError(TOO_SLOW) from None
    if done.returncode != 0:
        raise LoraError(NOT_PLAIN)


def main(source: str, target: str) -> int:
    child.confine(MEMORY_BYTES, CPU_SECONDS, ADDRESS_SPACE)
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
        for name in ("state_dict", "module"):
            if isinstance(found, dict) and isinstance(found.get(name), dict):
                found = found[name]
        if sum(t.numel() * t.element_size() for t in found.values()) > GROWTH * Path(source).stat().st_size:
            return REFUSED
        tensors = {str(name): t.detach().clone().contiguous() for name, t in found.items()}
        save_file(tensors, target, metadata={"format": "pt"})
    except Exception:  # a hostile file may fail in any way
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
