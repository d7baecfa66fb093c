"""Checks of single values that the vendors' models share.

Knows: what text can be stored, what a URL must have. Each raises PydanticCustomError, whose kind is a key of
`complaints.WORDS`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from pipelines.ranges import flaw

MAX_PROMPT = 20_000  # characters: far more than any text encoder of the family reads
LONGEST_URL = 8192  # characters


def writable(text: str) -> str:
    if wrong := flaw(text):
        raise PydanticCustomError("unwritable", "must be plain text: {wrong}", {"wrong": wrong})
    return text


def not_blank(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("blank", "must not be blank")
    return text


def no_bool(value: Any) -> Any:
    """Pydantic would take true for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number")
    return value


def joined(value: Any) -> Any:
    """A list of texts as one: Hugging Face's client sends negative prompts so."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(part for part in value if part.strip())
    return value


def is_blank(text: str | bytes) -> bool:
    """Whether it is white space; of a long text its beginning decides."""
    return not text[:MAX_PROMPT].strip()


def is_callable(url: str) -> bool:
    """Whether a webhook can be sent to this URL."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return whole and len(url) <= LONGEST_URL and url.isprintable() and " " not in url and flaw(url) is None
