"""The types of settings, with their checks.

A check raises ValueError. Its message is the end of a sentence, such as "must look like 600/minute".
"""

from __future__ import annotations

import math
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

APIS = ("fal", "segmind", "zhipu", "modelslab", "openai", "replicate", "huggingface")
MAX_RATE = 1_000_000_000


def listed(value: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


def _filled(value: str) -> str:
    """Refuses a list that contains only separators, because an empty list has another meaning."""
    if not listed(value):
        raise ValueError("lists nothing; leave it out for the default")
    return value


def _number(what: str, low: float, high: float) -> WrapValidator:
    """Gives the same message for every invalid value: text, NaN, infinity, a number out of range."""

    def check(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
        try:
            number = parse(value)
        except ValidationError:
            number = math.nan
        if not low <= number <= high:
            raise ValueError(f"must be {what} from {low} to {high}".replace("1e-05", "0.00001"))
        return number

    return WrapValidator(check)


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be text without control characters")
    return value.strip()


def _host(value: str) -> str:
    if not re.fullmatch(r"[\w.:%\[\]-]+", value):
        raise ValueError("must be an IP address or a host name")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    plain = not (parts.query or parts.fragment or "@" in parts.netloc) and re.fullmatch(r"[!-~]+", value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not plain:
        raise ValueError("must look like https://video.example.org, without user or query")
    return value.rstrip("/")


def _apis(value: str) -> str:
    value = _filled(value).lower()
    if unknown := [name for name in listed(value) if name not in APIS]:
        raise ValueError(f"{unknown[0]} is none of {', '.join(APIS)}")
    return value


def _networks(value: str) -> str:
    """`none` means no proxy; an empty value would mean the default."""
    if value.strip().lower() == "none":
        return ""
    for part in listed(_filled(value)):
        ip_network(part, strict=False)
    return value


def _storage_url(value: str) -> str:
    if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/[A-Za-z0-9._-]+)*/?", value):
        raise ValueError("must look like s3://bucket/prefix")
    return value.rstrip("/")


def _rate(value: str) -> str:
    from limits import parse_many  # imported here, because the import is slow and few commands need it

    try:
        (rate,) = parse_many(value)
        if 1 <= rate.amount <= MAX_RATE and 1 <= rate.multiples <= MAX_RATE:
            written = re.search(r"/\s*(\d+)|per\s+(\d+)", value)
            if written is None or int(written[1] or written[2]) > 0:
                return value
    except ValueError:
        pass
    raise ValueError("must look like 600/minute, with at least 1 request")


def _keys(value: SecretStr) -> SecretStr:
    """The error messages contain no part of a key."""
    text = value.get_secret_value()
    if text and not listed(text):
        raise ValueError("holds no key; leave it out, or empty, for a server without keys")
    for number, key in enumerate(listed(text), 1):
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError(f"key {number} has a space or a character that no HTTP header can carry")
        name, separator, secret = key.replace(":", ".", 1).partition(".")
        if separator and not (name and secret):
            raise ValueError(f"key {number} has nothing before or after its separator: it must look like id:secret")
    return value


def _path(value: Path) -> Path:
    if not str(value).strip() or "\0" in str(value):
        raise ValueError("must be a path")
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError("has no such home folder") from None


Text = Annotated[str, AfterValidator(_text)]
TextList = Annotated[str, AfterValidator(_filled)]
Host = Annotated[str, AfterValidator(_host)]
Url = Annotated[str, AfterValidator(_url)]
Apis = Annotated[str, AfterValidator(_apis)]
Networks = Annotated[str, AfterValidator(_networks)]
StorageUrl = Annotated[str, AfterValidator(_storage_url)]
Rate = Annotated[str, AfterValidator(_rate)]
ApiKeys = Annotated[SecretStr, AfterValidator(_keys)]
FilePath = Annotated[Path, AfterValidator(_path)]
Port = Annotated[int, _number("a whole number", 0, 65_535)]
Count = Annotated[int, _number("a whole number", 1, 1_000_000)]
Connections = Annotated[int, _number("a whole number", 1, 30_000)]
Mebibytes = Annotated[int, _number("a whole number", 0, 2**40)]
SomeMebibytes = Annotated[int, _number("a whole number", 1, 2**40)]
Seconds = Annotated[float, _number("a number", 0.001, 31_536_000)]
DrainSeconds = Annotated[float, _number("a number", 0, 3_600)]
HelpSeconds = Annotated[float, _number("a number", 0.001, 120)]
Days = Annotated[float, _number("a number", 1e-5, 36_500)]
