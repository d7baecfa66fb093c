"""Memory that large requests have taken goes back to the system when they end."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_BLOCK_BYTES = 2**17  # less than what is left of one of `server.limits.steps` pieces when its base64 is decoded


def return_large_blocks() -> None:
    """Blocks above 128 KiB are returned as soon as they are free; glibc otherwise learns to keep up to 32 MiB of them,
    in a pool for each thread. Does nothing on other systems."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has none of it
            libc = ctypes.CDLL(None)
            for option, value in ((_MMAP_THRESHOLD, _BLOCK_BYTES), (_TRIM_THRESHOLD, _BLOCK_BYTES), (_ARENA_MAX, 2)):
                libc.mallopt(option, value)
