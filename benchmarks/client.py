"""Timed requests to one of our servers.

It implements only the HTTP that this server needs, because a client library would cost more time than the response.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

KEY = "load:secret"


@dataclass
class Asked:
    """`seconds` has the duration of each successful request. `wrong` counts the failed requests by status or
    exception."""

    seconds: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def spread(self) -> dict[str, Any]:
        return {**spread(self.seconds), "errors": dict(self.wrong)}


class Line:
    """One connection, kept open between requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        lines = (f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {KEY}")
        more = ("content-type: application/json", f"content-length: {len(content)}") if body is not None else ()
        writer.write(("\r\n".join((*lines, *more)) + "\r\n\r\n").encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        return int(head[9:12]), await reader.readexactly(length)

    async def timed(self, due: float, asked: Asked, method: str, path: str, body: Any = None) -> bytes:
        """Send a request and record the seconds since `due`, a time of `time.perf_counter`."""
        try:
            status, answer = await self.ask(method, path, body)
        except (OSError, asyncio.IncompleteReadError) as e:
            asked.wrong[type(e).__name__] += 1
            self.close()
            return b""
        if status in (200, 202):  # 202: fal's status of an unfinished job
            asked.seconds.append(time.perf_counter() - due)
        else:
            asked.wrong[str(status)] += 1
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def once(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    line = Line(port)
    try:
        return await line.ask(method, path, body)
    finally:
        line.close()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Count and percentiles of `values` in seconds; None if there are none."""
    ordered = sorted(values)

    def at(share: float) -> float | None:
        return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None

    middle = statistics.median(ordered) if ordered else None
    return {"count": len(ordered), "p50": middle, "p95": at(0.95), "p99": at(0.99), "max": at(1.0)}
