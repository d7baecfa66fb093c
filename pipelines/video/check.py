"""Refuse a video of one flat colour, because a broken run (NaN, overflow) gives such frames."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# These limits were chosen for broken runs, not measured on real clips. A run with NaN gives black frames, and a run
# that collapsed gives frames of one colour, except for rounding. In a real night scene or white wall, some frame has a
# brighter or darker pixel.
BLACK_LEVEL = 4  # of 255; a clip counts as all black if no value is brighter
FLAT_SPAN = 3  # of 255; a clip counts as constant if no channel has a wider range


class BadOutput(RuntimeError):
    """The frames show nothing. `cause`: "all-black" or "constant"."""

    def __init__(self, cause: Literal["all-black", "constant"], message: str) -> None:
        super().__init__(message)
        self.cause = cause


class FrameCheck:
    """Call `update` with the frames, then `finish`. Once the frames so far are good, later frames are not checked."""

    def __init__(self) -> None:
        self._low = np.full(3, 255, dtype=np.uint8)
        self._high = np.zeros(3, dtype=np.uint8)
        self._frames = 0

    def update(self, frames: NDArray[np.uint8]) -> None:
        """`frames`: uint8 [T, H, W, 3] or [H, W, 3]."""
        self._frames += 1 if frames.ndim == 3 else len(frames)
        if self._healthy():
            return
        pixels = frames.reshape(-1, 3)
        if len(pixels):
            self._low = np.minimum(self._low, pixels.min(axis=0))
            self._high = np.maximum(self._high, pixels.max(axis=0))

    def finish(self) -> None:
        """Raises BadOutput for a video of one colour, and ValueError if there was no frame."""
        if not self._frames:
            raise ValueError("no frame was checked")
        if self._high.max() <= BLACK_LEVEL:
            raise BadOutput(
                "all-black", "every frame is black: the model produced NaN, most often by running in the wrong dtype"
            )
        if not self._healthy():
            colour = ", ".join(str(int(v)) for v in self._high)
            raise BadOutput("constant", f"every pixel of every frame is the same colour (RGB {colour})")

    def _healthy(self) -> bool:
        span = self._high.astype(np.int16) - self._low.astype(np.int16)
        return bool(span.max() > FLAT_SPAN and self._high.max() > BLACK_LEVEL)
