"""Variables that libraries read once, when they are loaded. Call `prepare` before torch is imported.

Knows: torch's, OpenMP's and the hub's switches. Does not know: settings of this project.
"""

from __future__ import annotations

import os

VARIABLES = {
    "HF_HUB_OFFLINE": "1",  # generating contacts nothing
    # Idle OpenMP threads spin by default. With one other busy process on two cores that made a video of the demo model
    # ten times slower than sleeping does (measured: 41.9 s against 4.5 s).
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # less fragmentation between stages of unlike sizes
}


def prepare() -> None:
    """Set what the owner has not set otherwise."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
