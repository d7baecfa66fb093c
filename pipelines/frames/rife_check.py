"""`python -m pipelines.frames.rife_check FILE [TARGET]`: checks RIFE weights before they are used.

With TARGET, the program also writes the weights to TARGET as safetensors. It is a separate process, because reading
weights needs torch, which the server does not import.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import child
from weights.catalog import WeightsError

if TYPE_CHECKING:
    from pipelines.frames.rife import Shape

SECONDS = 300.0
# channels of the blocks, then of the encoder and its output -> versions; an unlisted version may have the same shape
_VERSIONS = {
    (192, 128, 96, 64, 0, 0): "4.6",
    (192, 128, 96, 64, 16, 4): "4.7",
    (192, 128, 96, 64, 32, 8): "4.10 and 4.13",
    (128, 96, 64, 48, 32, 4): "4.12.lite",
    (128, 96, 64, 48, 16, 4): "4.15.lite",
    (384, 192, 96, 48, 32, 8): "4.20",
    (256, 192, 96, 48, 32, 8): "4.22",
    (192, 128, 64, 32, 16, 4): "4.22.lite",
    (192, 128, 96, 64, 32, 16, 4): "4.25",
    (192, 128, 96, 64, 24, 16, 4): "4.25.lite",
    (384, 256, 192, 128, 64, 16, 4): "4.25.heavy",
    (192, 128, 96, 64, 32, 16, 16): "4.26.heavy",
}


def refusal(file: Path) -> str | None:
    """Why `file` cannot be used, in one line; None if it loads. The check takes as long as importing torch."""
    return child.verdict("pipelines.frames.rife_check", file, seconds=SECONDS)[0]


def convert(file: Path, target: Path) -> str:
    """Write `file` to `target` as safetensors; returns the RIFE versions whose networks have the file's shape. Raises
    WeightsError."""
    why, output = child.verdict("pipelines.frames.rife_check", file, target, seconds=SECONDS)
    if why is not None:
        raise WeightsError(f"{file}: {why}")
    return output


def described(shape: Shape) -> str:
    """The versions that have this shape."""
    if shape.middle_only:
        return "not RIFE's, but shaped like the small network that ships with this project"
    encoder = (shape.encoder_width, shape.features)
    if (version := _VERSIONS.get((*shape.widths, *encoder))) is not None:
        return f"shaped like RIFE {version}"
    return f"shaped like no published RIFE: {len(shape.widths)} blocks of {', '.join(map(str, shape.widths))} channels"


def main(file: str, target: str | None = None) -> int:
    from safetensors.torch import save_file

    from pipelines.frames import rife

    try:
        net = rife.load(file, "cpu")
    except (OSError, ValueError) as e:
        return child.refuse(e)
    if target is None:
        return 0
    try:
        # copies: safetensors refuses tensors that share memory
        save_file({name: value.clone().contiguous() for name, value in net.state_dict().items()}, target)
    except Exception as e:  # safetensors has its own exception for a full disk
        sys.stdout.write(f"{target} cannot be written: {e}")
        return child.REFUSED
    sys.stdout.write(described(net.shape))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
