"""The file of the frame-interpolation network: RIFE's own, or the small one that ships with this project."""

from __future__ import annotations

from pathlib import Path

from weights.catalog import WeightsError

SHIPPED = Path(__file__).resolve().parent / "demo-rife" / "flownet.safetensors"
SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt")
RIFE, SMALL = "rife", "demo-rife"  # names of the two networks and of their folders
NETWORKS = (RIFE, SMALL)


def place(name: str, models_dir: Path) -> Path:
    """The path of the network `name`, one of NETWORKS; the file may be missing."""
    return SHIPPED if name == SMALL else models_dir / RIFE / SHIPPED.name


def rife_weights(given: Path | None = None, models_dir: Path | None = None) -> Path | None:
    """The file `given`; otherwise the network imported into `models_dir`; otherwise the small network; None if the
    small network is missing too.

    Raises WeightsError.
    """
    if given is not None:
        return named(given)
    places = [place(RIFE, models_dir)] if models_dir is not None else []
    return next((file for file in (*places, SHIPPED) if file.is_file()), None)


def named(given: Path) -> Path:
    """Check a file that the user chose. Raises WeightsError if it is missing or has an unknown suffix."""
    if given.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"not a RIFE weights file: its name must end in {', '.join(SUFFIXES)}")
    if not given.is_file():
        raise WeightsError("there is no such file")
    return given
