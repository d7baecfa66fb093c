"""Environment variables that libraries read once, when they are imported. Call `prepare` before importing torch."""

from __future__ import annotations

import os

VARIABLES = {
    "HF_HUB_OFFLINE": "1",  # generating contacts nothing
    # How long an idle OpenMP thread spins before it sleeps. The default is too long: on two cores with one other busy
    # process, 10 steps of the demo model took 25 to 42 s, against 4.1 to 4.9 s without spinning. 45 steps took, alone /
    # beside a busy process: 4.4 / 6.6 s without spinning, 3.9 / 8.2 s with 2000 turns, 3.9 s / not measured with the
    # default.
    "GOMP_SPINCOUNT": "2000",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # reduces fragmentation between stages of different sizes
}


def prepare() -> None:
    """Set the variables that are not set yet."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
