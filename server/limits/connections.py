"""Limits the number of open connections, in total and per IP address.

Knows: addresses, and which connections are waiting for a request. Does not know: HTTP, TLS. The log gets only the
counts of refused and cut connections, at intervals, so that a flood of connections does not flood the log.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Protocol

import structlog

LOG_EVERY = 10.0  # seconds between two lines about refused and cut connections
FILES_EACH = 2  # file descriptors that a connection may need: its socket, and the file being sent
FILES_KEPT = 256  # file descriptors for everything but connections: the job table, workers, downloads, webhooks
MOST_FILES = 65_536  # the process's limit of open files is never raised above this

log = structlog.get_logger()


class Waiting(Protocol):
    """A connection without a request. Its client has sent nothing or an incomplete head, or keeps it open between two
    requests."""

    def evict(self) -> None: ...


class Connections:
    """`exempt(address)`: whether the limit per address does not apply to this address. Example: a proxy, which carries
    every client's connections."""

    def __init__(self, most: int, most_per_address: int, exempt: Callable[[str], bool] = lambda _: False) -> None:
        self.most = most
        self.most_per_address = most_per_address
        self._exempt = exempt
        self._open = 0
        self._of: Counter[str] = Counter()
        # waiting connections, oldest first: connections without any request so far, and connections between two
        # requests
        self._silent: dict[Waiting, None] = {}
        self._kept_alive: dict[Waiting, None] = {}
        self._events: Counter[str] = Counter()
        self._logged_at = 0.0

    def enter(self, address: str) -> str | None:
        """Counts a new connection. Returns None, or the reason for refusing it.

        When all places are taken, the connection that has waited longest for a request is closed to make room,
        preferably a connection that has not had any request so far.
        """
        place = place_of(address)
        if self._of[place] >= self.most_per_address and not self._exempt(address):
            self.note("too many from one address")
            return f"More than {self.most_per_address} connections from one address"
        if self._open >= self.most:
            self.note("too many in all")
            if not self.evict_one():
                return "Too many connections"
        self._open += 1
        self._of[place] += 1
        return None

    def evict_one(self) -> bool:
        """Closes the waiting connection that `enter` describes; False when no connection is waiting."""
        oldest = next(iter(self._silent), None) or next(iter(self._kept_alive), None)
        if oldest is None:
            return False
        self.stop_waiting(oldest)
        oldest.evict()
        return True

    def leave(self, address: str) -> None:
        place = place_of(address)
        self._open -= 1
        self._of[place] -= 1
        if self._of[place] <= 0:
            del self._of[place]

    def wait(self, connection: Waiting, kept_alive: bool = False) -> None:
        """`kept_alive`: the connection has had a request before."""
        (self._kept_alive if kept_alive else self._silent).setdefault(connection)

    def stop_waiting(self, connection: Waiting) -> None:
        self._silent.pop(connection, None)
        self._kept_alive.pop(connection, None)

    def note(self, event: str) -> None:
        """Counts a refused or cut connection for the log."""
        self._events[event] += 1

    def log(self, now: float) -> None:
        """Writes at most one line every LOG_EVERY seconds."""
        if self._events and now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning("connections refused or cut", **{name.replace(" ", "_"): n for name, n in self._events.items()})
            self._events.clear()


def place_of(address: str) -> str:
    """The unit of the limit per address: a single IPv4 address, or an IPv6 /64 network."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(ip_network((ip, 64), strict=False))


def most_by_files(wanted: int) -> int:
    """Raises the limit of open files if permitted; returns `wanted`, or the lower number of connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * FILES_EACH + FILES_KEPT
    if soft != resource.RLIM_INFINITY and soft < needed:
        best = min(needed, MOST_FILES) if hard == resource.RLIM_INFINITY else min(needed, MOST_FILES, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, best), hard))
            soft = max(soft, best)
        except (OSError, ValueError):
            pass
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    possible = max(1, (soft - FILES_KEPT) // FILES_EACH)
    log.warning("fewer connections than COGVIDEOX_MAX_CONNECTIONS: the limit of open files", most=possible, files=soft)
    return possible
