"""Where the network lies that draws frames between frames: RIFE's own, or the small one that ships with this project.

Knows: the files' places, which one is used, which endings RIFE weights have. Does not know: torch, what is in a file.
"""

from __future__ import annotations

from pathlib import Path

from weights.catalog import WeightsError

SHIPPED = Path(__file__).resolve().parent / "demo-rife" / "flownet.safetensors"
SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt")
RIFE, SMALL = "rife", "demo-rife"  # what the folders are called, and the two are by their names
NETWORKS = (RIFE, SMALL)


def place(name: str, models_dir: Path) -> Path:
    """The file of one of NETWORKS, whether it is there or not."""
    return SHIPPED if name == SMALL else models_dir / RIFE / SHIPPED.name


def rife_weights(given: Path | None = None, models_dir: Path | None = None) -> Path | None:
    """`given`, else what was imported into `models_dir`, else the small network; None where an installation lacks that.

    Raises WeightsError.
    """
    if given is not None:
        return named(given)
    places = [place(RIFE, models_dir)] if models_dir is not None else []
    return next((file for file in (*places, SHIPPED) if file.is_file()), None)


def named(given: Path) -> Path:
    """A file that a person named. Raises WeightsError for none, and for an ending that RIFE weights do not have."""
    if given.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"not a RIFE weights file: its name must end in {', '.join(SUFFIXES)}")
    if not given.is_file():
        raise WeightsError("there is no such file")
    return given
