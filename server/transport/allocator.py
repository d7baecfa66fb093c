"""Makes glibc return the memory of a large request to the system when the request ends."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

# option numbers from glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_BLOCK_BYTES = 2**17  # less than the decoded size of one base64 piece of `server.limits.steps`


def return_large_blocks() -> None:
    """Makes glibc return blocks above 128 KiB to the system as soon as they are freed. By default glibc raises that
    threshold up to 32 MiB and keeps a pool per thread. Does nothing on other systems."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no mallopt
            libc = ctypes.CDLL(None)
            for option, value in ((_MMAP_THRESHOLD, _BLOCK_BYTES), (_TRIM_THRESHOLD, _BLOCK_BYTES), (_ARENA_MAX, 2)):
                libc.mallopt(option, value)
