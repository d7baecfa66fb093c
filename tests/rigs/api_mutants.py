"""Mutates requests that were generated from a schema: generating a request takes 0.1 s, mutating it takes almost no
time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from tests.rigs.api_hostile import BODIES, HEADER_VALUES, TYPES, VALUES, WORDS
from tests.rigs.api_judge import Asked

ENOUGH = 100_000  # largest body, in bytes, that is mutated as JSON


def mutants(asked: Asked, random: Random, count: int) -> Iterator[Asked]:
    """Yields `count` mutations, reproducible for the same `random`."""
    document = _document(asked.body)
    for _ in range(count):
        if document is not None and random.random() < 0.8:
            what, changed = _changed(document, random)
            yield replace(asked, body=json.dumps(changed).encode(), what=f"{asked.what}, {what}")
        elif asked.body and random.random() < 0.7:
            yield replace(asked, body=_spoilt(asked.body, random), what=f"{asked.what}, bytes changed")
        else:
            yield _around(asked, random)


def _document(body: bytes) -> Any:
    """The body's JSON value if it is a non-empty object or list, else None."""
    try:
        found = json.loads(body) if len(body) <= ENOUGH else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) and found else None


def _changed(document: Any, random: Random) -> tuple[str, Any]:
    """Makes one random change: it replaces, removes, wraps, duplicates or renames a value. Returns a description of the
    change and a changed copy of the document."""
    copy = json.loads(json.dumps(document))
    parent = random.choice(_parents(copy))
    place = random.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
    match random.randrange(6):
        case 0 | 1:
            parent[place] = value = random.choice(VALUES)
            return f"{place} is {value!r:.40}", copy
        case 2:
            del parent[place]
            return f"{place} is missing", copy
        case 3:
            parent[place] = [parent[place]] * random.choice((1, 2, 50))
            return f"{place} is a list", copy
        case 4:
            parent[place] = random.choice((str, repr, lambda one: {"value": one}))(parent[place])
            return f"{place} is wrapped", copy
        case _ if isinstance(parent, dict):
            name = random.choice((place.upper(), f"{place} ", f"x_{place}", "__proto__", ""))
            parent[name] = parent.pop(place)
            return f"{place} is {name!r:.40}", copy
        case _:
            parent.append(parent[place])
            return f"{place} is there twice", copy


def _parents(value: Any) -> list[Any]:
    """All non-empty objects and lists in `value`."""
    if not isinstance(value, dict | list) or not value:
        return []
    return [
        value,
        *(found for one in (value.values() if isinstance(value, dict) else value) for found in _parents(one)),
    ]


def _spoilt(body: bytes, random: Random) -> bytes:
    at = random.randrange(len(body))
    match random.randrange(4):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]
        case 2:
            return body[:at] + body[at // 2 :]
        case _:
            return random.choice([*BODIES.values()])


def _around(asked: Asked, random: Random) -> Asked:
    """The request with another query, content type or header."""
    match random.randrange(3):
        case 0:
            path, _, query = asked.target.partition(b"?")
            names = [part.partition(b"=")[0] for part in query.split(b"&")] if query else [b"limit"]
            target = path + b"?" + random.choice(names) + b"=" + random.choice(WORDS)
            return replace(asked, target=target, what=f"{asked.what}, query changed")
        case 1:
            kept = tuple(one for one in asked.headers if one[0] != b"content-type")
            kind = random.choice(TYPES)
            return replace(asked, headers=(*kept, (b"content-type", kind)), what=f"{asked.what}, as {kind[:40]!r}")
        case _:
            place = random.randrange(len(asked.headers))
            name = asked.headers[place][0]
            if name in (b"x-api-key", b"content-length"):
                return replace(asked, headers=(*asked.headers, (b"prefer", random.choice(HEADER_VALUES))))
            headers = [*asked.headers]
            headers[place] = (name, random.choice(HEADER_VALUES))
            return replace(asked, headers=tuple(headers), what=f"{asked.what}, {name.decode('latin-1')} changed")
