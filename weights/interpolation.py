"""Where the network lies that draws frames between frames: RIFE's own, or the small one that ships with this project.

Knows: the file's place and which endings RIFE weights have. Does not know: torch, what is in the file.
"""

from __future__ import annotations

from pathlib import Path

from weights.catalog import WeightsError

SHIPPED = Path(__file__).resolve().parent / "demo-rife" / "flownet.safetensors"
SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt")


def rife_weights(given: Path | None = None) -> Path | None:
    """`given`, else the small network; None where an installation lacks that. Raises WeightsError."""
    if given is None:
        return SHIPPED if SHIPPED.is_file() else None
    if given.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"no RIFE weights file: those end in {', '.join(SUFFIXES)}")
    if not given.is_file():
        raise WeightsError("there is no such file; without the setting the small network of this project is used")
    return given
