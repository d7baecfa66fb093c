"""What a façade stores with a job: the fields as the client sent them, shortened, and notes on those without effect.

Knows: how much of them the job table keeps. Does not know: which fields there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from server.facades.kit.checks import MAX_PROMPT
from server.facades.kit.complaints import SHOWN, shown

KEPT = 64_000  # characters of a request's fields
UNKNOWN, LONGEST_FIELD = 20, 60  # fields without effect that are named, and characters of one's name
NOT_A_FIELD = "this server has no such field"


def kept(fields: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The known fields, without the images themselves, and at most KEPT characters altogether."""
    left = Left(KEPT)
    return {name[:SHOWN]: _abridged(fields[name], left) for name in names if fields.get(name) is not None}


@dataclass
class Left:
    """Characters that may still be kept."""

    characters: int

    def take(self, size: int) -> bool:
        self.characters -= size
        return self.characters >= 0


def _abridged(value: Any, left: Left, depth: int = 3) -> Any:
    left.take(8)  # what a value takes besides its characters
    if isinstance(value, str):
        if len(value) > MAX_PROMPT or not left.take(len(value)):
            value = f"{value[:80]}… ({len(value)} characters)"
        return value.encode("utf-8", "replace").decode().replace("\0", "")
    if isinstance(value, dict) and depth and left.take(0):
        some = list(value.items())[:100]
        return {name: _abridged(one, left, depth - 1) for key, one in some if (name := _plain(key)) and left.take(0)}
    if isinstance(value, list) and depth and left.take(0):
        return [_abridged(one, left, depth - 1) for one in value[:100] if left.take(0)]
    return shown(value)


def _plain(key: str) -> str:
    return key[:SHOWN].encode("utf-8", "replace").decode().replace("\0", "")


def unknown(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """A note for each field that was sent and that the call does not have, at most UNKNOWN of them."""
    names = sorted(set(given) - set(known))
    said = [f"{_plain(name[:LONGEST_FIELD])}: ignored ({NOT_A_FIELD})" for name in names[:UNKNOWN]]
    return said if len(names) <= UNKNOWN else [*said, f"and {len(names) - UNKNOWN} more fields"]
