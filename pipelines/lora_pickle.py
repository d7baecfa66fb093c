"""`python -m pipelines.lora_pickle FROM TO`: a pickled LoRA (.pt, .bin, .ckpt) -> a safetensors file.

Knows: torch's pickles of plain tensors. Anything else in them is refused, code above all; it runs in a process of its
own all the same. Does not know: LoRA.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipelines.lora_layout import LoraError

SECONDS = 300.0
REFUSED = 3


def convert(source: Path, target: Path) -> None:
    """Raises LoraError."""
    command = [sys.executable, "-m", "pipelines.lora_pickle", str(source), str(target)]
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": paths}, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoraError(f"it could not be converted within {SECONDS:g} seconds") from None
    if done.returncode != 0:
        raise LoraError("it is no pickle of plain tensors")


def main(source: str, target: str) -> int:
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
        for name in ("state_dict", "module"):
            if isinstance(found, dict) and isinstance(found.get(name), dict):
                found = found[name]
        tensors = {str(name): t.detach().clone().contiguous() for name, t in found.items()}
        save_file(tensors, target, metadata={"format": "pt"})
    except Exception:  # a hostile file may fail in any way
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
