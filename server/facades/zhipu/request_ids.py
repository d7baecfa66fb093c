"""The names that callers gave their requests, so that a repeated one is noticed.

Knows: the latest names of each key since the server started; older ones, and all at a restart, are forgotten.
Does not know: jobs. For one event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MOST = 10_000


class Repeated(Exception):
    pass


class RequestIds:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._taken: dict[tuple[str, str], None] = {}

    @contextmanager
    def taken(self, owner: str, name: str | None) -> Iterator[None]:
        """Keeps `name` if the block succeeds. Raises Repeated for one that is kept or in use."""
        if name is None:
            yield
            return
        key = owner, name
        if key in self._taken:
            raise Repeated
        self._taken[key] = None
        try:
            yield
        except BaseException:
            self._taken.pop(key, None)
            raise
        while len(self._taken) > self._most:
            del self._taken[next(iter(self._taken))]
