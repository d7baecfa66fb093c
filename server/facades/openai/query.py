"""Checks `limit`, `order` and `after`, the parameters of OpenAI's lists."""

from __future__ import annotations

import re

from starlette.datastructures import QueryParams

from server.facades.openai.errors import Refused

ORDERS = ("desc", "asc")
DIGITS = re.compile(r"[0-9]{1,9}")


def limit_of(query: QueryParams, default: int, highest: int) -> int:
    given = query.get("limit") or str(default)
    if not DIGITS.fullmatch(given) or not 1 <= int(given) <= highest:
        message = f"Invalid 'limit': must be an integer between 1 and {highest}, got {given[:100]!r}"
        raise Refused(400, message, "limit", "invalid_value")
    return int(given)


def is_newest_first(query: QueryParams) -> bool:
    given = query.get("order") or ORDERS[0]
    if given not in ORDERS:
        raise Refused(400, f"Invalid 'order': must be 'asc' or 'desc', got {given[:100]!r}", "order", "invalid_value")
    return given == ORDERS[0]


def unknown_after(given: str) -> Refused:
    return Refused(400, f"Invalid 'after': there is no {given[:100]!r} in this list", "after", "invalid_value")
