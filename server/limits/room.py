"""How much clients may make grow on the disk, counted while it grows.

Knows: the floor of free space, the limits, what each key has brought lately and what is being written at the moment.
Does not know: what the files are, where they lie. Every method may be called from any thread.

An API key is known here by its tag, which is what the keys of all its files begin with.
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
SLOT = 600.0  # seconds; bytes are counted by when they came, this finely
HOUR, DAY = 3600.0, 86_400.0
LEAST = 16 * 2**10  # bytes that each file counts as at least: it takes inodes and blocks too
LOOK_BYTES = 4 * 2**20  # written by everybody together between two looks at the free space
LOOK_SECONDS = 1.0
Counted = tuple[str, int, bool, float]  # the arguments of `Room.note`


@dataclass(frozen=True)
class RoomLimits:
    """In bytes, None: no limit. `size` and `size_per_key` count the files of the last hour, which are not removed for
    want of room; `brought_per_key` what a key has brought within a day."""

    size: int | None = None
    size_per_key: int | None = None
    brought_per_key: int | None = None


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Growing:
    """`file`, of which each piece is counted before it is written. Raises what `grow` does."""

    file: Writable
    grow: Callable[[int], None]

    def write(self, data: bytes, /) -> object:
        self.grow(len(data))
        return self.file.write(data)


class Tally:
    """Bytes by tag and by when they came, of the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slots: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, tag: str, size: int, at: float) -> None:
        self._slots[tag][int(at // SLOT)] += size

    def sum(self, tag: str | None, now: float) -> int:
        """Of that tag, or of all."""
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
    """`free` gives the bytes that are free on the disk, of which `floor` are never given to clients' files. `clock`
    gives unix seconds. `limits` may be set once, before the first file."""

    def __init__(self, free: Callable[[], int], floor: int, clock: Callable[[], float] = time.time) -> None:
        self.limits = RoomLimits()
        self._free = free
        self._floor = floor
        self._clock = clock
        self._lock = Lock()
        self._seen = (0, float("-inf"))  # free bytes, and when that was
        self._since = 0  # bytes written after that look
        self._growing: dict[str, int] = defaultdict(int)
        self._kept, self._brought, self._fetched = Tally(HOUR), Tally(DAY), Tally(DAY)
        self._news: list[Counted] | None = None

    @contextmanager
    def growing(self, tag: str, *, again: bool = False) -> Iterator[Callable[[int], None]]:
        """What to call with the number of bytes before they are written. They count as this key's until the block ends.
        `again`: they are a copy of what counts already, and only have to fit on the disk.

        The call raises StorageQuotaExceeded, DiskFull.
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
        """A file is there: a result, or one that a client has brought. A negative `size`: it is gone again."""
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
        """An image, clip or LoRA of a request was stored, where several keys may use it."""
        with self._lock:
            self._fetched.add(tag, max(LEAST, size), self._clock())

    @contextmanager
    def recount(self) -> Iterator[Callable[[Iterable[Counted]], None]]:
        """What to call with all files there are, as `note` takes them, in place of what was counted; what is noted
        while they are listed counts in any case."""
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
            raise DiskFull(f"the files of the last hour take all of the {limits.size // 2**20} MiB there are for files")
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
    """What the keys of that owner's files begin with; on a server without keys everybody's."""
    digest = hashlib.blake2b(owner.encode(), digest_size=6, person=b"artifacts").digest()
    return base64.urlsafe_b64encode(digest).decode()
