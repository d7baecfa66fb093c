"""Converts pydantic's errors to a vendor's sentences. Also defines checks of single values; these checks raise errors
of pydantic's kind.

Knows: pydantic's types of errors, what text can be stored, how much of a client's value an error quotes. Does not know:
a vendor's field names and error codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pipelines.ranges import flaw

MAX_PROMPT = 20_000  # characters: far more than the text encoders of these models read
NO_PROMPT = "The scene comes to life with natural, smooth motion."  # CogVideoX needs a prompt
LONGEST_URL = 8192  # characters
SHOWN = 200  # characters of a client's value that an error quotes
OTHER = "other"
# pydantic's error types -> their common key in WORDS
FAMILIES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "integer"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number", "not_a_number"), "number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "boolean"),
    **dict.fromkeys(("string_type", "bytes_type"), "text"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "object"),
    **dict.fromkeys(("greater_than_equal", "less_than_equal"), "range"),
}
# `complaint` sets {name}, {given}, {msg} and {range}; pydantic sets the other names
WORDS: Mapping[str, str] = {
    "missing": "{name} is required",
    "integer": "{name} must be an integer, got {given!r}",
    "number": "{name} must be a number, got {given!r}",
    "boolean": "{name} must be true or false, got {given!r}",
    "range": "{name} must be{range}, got {given}",
    "text": "{name} must be a string",
    "string_unicode": "{name} must be plain text",
    "string_too_long": "{name} must be at most {max_length} characters long",
    "string_too_short": "{name} must be at least {min_length} characters long",
    "list_type": "{name} must be a list",
    "object": "{name} must be an object",
    "blank": "{name} {msg}",
    "unwritable": "{name} {msg}",
    OTHER: "{name}: {msg}",
}


def complaint(
    error: Mapping[str, Any], name: str, words: Mapping[str, str] = WORDS, ranges: Mapping[str, str] | None = None
) -> str:
    """Returns the sentence for one of pydantic's errors. Looks in `words` for the error's type, then for the type's
    family (FAMILIES), then for OTHER."""
    kind, limits = error["type"], {key: plain(value) for key, value in error.get("ctx", {}).items()}
    template = words.get(kind) or words.get(FAMILIES.get(kind, OTHER)) or words[OTHER]
    own = {"name": name, "given": shown(error["input"]), "msg": error["msg"], "range": (ranges or {}).get(name, "")}
    return template.format_map({**limits, **own})


def complaints(error: ValidationError, one: Callable[[Mapping[str, Any]], str]) -> str:
    """The sentences of all errors in one line, without duplicates."""
    return "; ".join(dict.fromkeys(one(dict(found)) for found in error.errors(include_url=False)))


def ranges(*models: type[BaseModel]) -> dict[str, tuple[float, float]]:
    """Field name -> (minimum, maximum), for each field of these models that has a minimum and a maximum."""
    return {
        name: (low, high)
        for model in models
        for name, whole in model.model_json_schema()["properties"].items()
        for spec in (whole, *whole.get("anyOf", ()))
        if (low := spec.get("minimum")) is not None and (high := spec.get("maximum")) is not None
    }


def between(low: float, high: float) -> str:
    return f" between {plain(low)} and {plain(high)}"


def plain(value: Any) -> Any:
    """Converts a float to text without a superfluous decimal point; returns any other value unchanged."""
    return f"{value:g}" if isinstance(value, float) else value


def shown(value: Any) -> Any:
    """Shortens `value` for an error that quotes it. The result is always valid in JSON."""
    if isinstance(value, str):
        return value if len(value) <= SHOWN else f"{value[:SHOWN]}… ({len(value)} characters)"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else shown(hex(value))
    if isinstance(value, dict):
        return f"an object of {len(value)} fields" if value else {}
    if isinstance(value, list):
        return f"a list of {len(value)} entries" if value else []
    return None


def writable(text: str) -> str:
    if wrong := flaw(text):
        raise PydanticCustomError("unwritable", "must be plain text: {wrong}", {"wrong": wrong})
    return text


def not_blank(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("blank", "must not be blank")
    return text


def no_bool(value: Any) -> Any:
    """Refuses true and false, which pydantic would convert to 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number")
    return value


def joined(value: Any) -> Any:
    """Joins a list of texts. Hugging Face's client sends negative prompts as such a list."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(part for part in value if part.strip())
    return value


def is_blank(text: str | bytes) -> bool:
    """Whether the text is only white space; checks only the beginning of a long text."""
    return not text[:MAX_PROMPT].strip()


def is_callable(url: str) -> bool:
    """Whether a webhook can be sent to this URL."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return whole and len(url) <= LONGEST_URL and url.isprintable() and " " not in url and flaw(url) is None
