"""Detects repeated request ids, which clients choose.

Remembers only the latest ids of each key since the server started. All calls must come from one event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 10_000  # ids per key


class Repeated(Exception):
    pass


class RequestIds:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._taken: dict[str, dict[str, None]] = defaultdict(dict)

    @contextmanager
    def taken(self, owner: str, name: str | None) -> Iterator[None]:
        """Remembers `name` if the block succeeds. Raises Repeated for a name that is remembered or in use."""
        if name is None:
            yield
            return
        names = self._taken[owner]
        if name in names:
            raise Repeated
        names[name] = None
        try:
            yield
        except BaseException:
            names.pop(name, None)
            raise
        while len(names) > self._most:
            del names[next(iter(names))]
