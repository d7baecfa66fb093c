"""Limits the disk space that clients' files take, checked while they are being written.

Knows: the minimum of free space, the limits, the recent files of each API key, the bytes being written now. Does not
know: what the files are, where they are stored. Every method may be called from any thread.

An API key is identified by its tag, the prefix of the keys of all its files.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from server.errors import DiskFull, StorageQuotaExceeded

TAG = 8  # characters
SLOT = 600.0  # seconds of one time slot; bytes are counted per slot
HOUR, DAY = 3600.0, 86_400.0
LEAST = 16 * 2**10  # bytes; a smaller file counts as this size, because each file also takes an inode and a whole block
LOOK_BYTES = 4 * 2**20  # the free space is checked again after this many bytes, or after LOOK_SECONDS
LOOK_SECONDS = 1.0
Counted = tuple[str, int, bool, float]  # the arguments of `Room.note`


@dataclass(frozen=True)
class RoomLimits:
    """Limits in bytes; None: no limit. `size` and `size_per_key` apply to files of the last hour, which are never
    removed to make room. `brought_per_key` applies to the files that a key uploaded, or made the server download,
    within a day."""

    size: int | None = None
    size_per_key: int | None = None
    brought_per_key: int | None = None


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Growing:
    """Wraps `file` and calls `grow` with the size of each piece before writing it. Raises what `grow` raises."""

    file: Writable
    grow: Callable[[int], None]

    def write(self, data: bytes, /) -> object:
        self.grow(len(data))
        return self.file.write(data)


class Tally:
    """Bytes per tag and time slot, for the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slots: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, tag: str, size: int, at: float) -> None:
        self._slots[tag][int(at // SLOT)] += size

    def sum(self, tag: str | None, now: float) -> int:
        """The bytes of this tag; None means all tags."""
        first = int((now - self._seconds) // SLOT)
        total = 0
        for one in list(self._slots) if tag is None else [tag]:
            slots = self._slots.get(one, {})
            for slot in [slot for slot in slots if slot < first]:
                del slots[slot]
            if not slots:
                self._slots.pop(one, None)
            total += max(0, sum(slots.values()))
        return total


class Room:
    """`free` returns the free bytes on the disk; clients' files must leave `floor` bytes free. `clock` returns unix
    seconds. `limits` may be set once, before the first file."""

    def __init__(self, free: Callable[[], int], floor: int, clock: Callable[[], float] = time.time) -> None:
        self.limits = RoomLimits()
        self._free = free
        self._floor = floor
        self._clock = clock
        self._lock = Lock()
        self._seen = (0, float("-inf"))  # free bytes at the latest check, and the time of that check
        self._since = 0  # bytes written after that check
        self._growing: dict[str, int] = defaultdict(int)
        self._kept, self._brought, self._fetched = Tally(HOUR), Tally(DAY), Tally(DAY)
        self._news: list[Counted] | None = None

    @contextmanager
    def growing(self, tag: str, *, again: bool = False) -> Iterator[Callable[[int], None]]:
        """Yields a function to call before each write, with the number of bytes. These bytes count for this key until
        the block ends. `again`: the bytes are a copy of files that already count, so only the free disk space is
        checked.

        The function raises StorageQuotaExceeded, DiskFull.
        """
        mine = 0

        def grow(size: int) -> None:
            nonlocal mine
            with self._lock:
                if not again:
                    self._check_limits(tag, size)
                self._check_floor(size)
                self._since += size
                if not again:
                    self._growing[tag] += size
                    mine += size

        try:
            yield grow
        finally:
            with self._lock:
                self._growing[tag] -= mine
                if not self._growing[tag]:
                    del self._growing[tag]

    def note(self, tag: str, size: int, brought: bool, at: float | None = None) -> None:
        """Counts a stored file: an upload (`brought`) or a result. A negative `size` means that the file was
        removed."""
        with self._lock:
            self._note(tag, size, brought, self._clock() if at is None else at)
            if self._news is not None:
                self._news.append((tag, size, brought, self._clock() if at is None else at))

    def _note(self, tag: str, size: int, brought: bool, at: float) -> None:
        size = max(LEAST, size) if size >= 0 else -max(LEAST, -size)
        self._kept.add(tag, size, at)
        if brought:
            self._brought.add(tag, size, at)

    def note_fetched(self, tag: str, size: int) -> None:
        """Counts an input file or LoRA that was stored for a request of this key; other keys may use it too."""
        with self._lock:
            self._fetched.add(tag, max(LEAST, size), self._clock())

    @contextmanager
    def recount(self) -> Iterator[Callable[[Iterable[Counted]], None]]:
        """Yields a function that replaces the counts by the sums of all existing files, given as arguments of `note`.
        Files that are noted while the caller lists the files also count."""
        with self._lock:
            self._news = []

        def found(files: Iterable[Counted]) -> None:
            listed = list(files)
            with self._lock:
                self._kept, self._brought = Tally(HOUR), Tally(DAY)
                for tag, size, brought, at in (*listed, *(self._news or ())):
                    self._note(tag, size, brought, at)

        try:
            yield found
        finally:
            with self._lock:
                self._news = None

    def _check_limits(self, tag: str, size: int) -> None:
        limits, now = self.limits, self._clock()
        if limits.size is not None and self._kept.sum(None, now) + sum(self._growing.values()) + size > limits.size:
            raise DiskFull(f"the files of the last hour fill all {limits.size // 2**20} MiB of the server's storage")
        own = self._growing.get(tag, 0) + size
        if limits.size_per_key is not None and self._kept.sum(tag, now) + own > limits.size_per_key:
            raise StorageQuotaExceeded(limits.size_per_key, "an hour")
        brought = self._brought.sum(tag, now) + self._fetched.sum(tag, now)
        if limits.brought_per_key is not None and brought + own > limits.brought_per_key:
            raise StorageQuotaExceeded(limits.brought_per_key, "a day")

    def _check_floor(self, size: int) -> None:
        free, at = self._seen
        is_old = self._since + size > LOOK_BYTES or not 0 <= self._clock() - at < LOOK_SECONDS
        if is_old or free - self._since - size < self._floor:
            free = self._free()
            self._seen, self._since = (free, self._clock()), 0
        if free - self._since - size < self._floor:
            raise DiskFull(f"only {max(0, free - self._since) // 2**20} MiB are free on the server's disk")


def tag_of(owner: str) -> str:
    """The prefix of the keys of this owner's files; on a server without API keys, all files have the same prefix."""
    digest = hashlib.blake2b(owner.encode(), digest_size=6, person=b"artifacts").digest()
    return base64.urlsafe_b64encode(digest).decode()
