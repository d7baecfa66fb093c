"""Expected responses: JSON files under `golden/<vendor>/`, compared member by member.

Ids, file keys, times and durations, which differ between runs, are replaced by placeholders before the comparison.
`UPDATE_GOLDEN=1 pytest …` rewrites the files; read the diff before you commit it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden"
KINDS = {"film": "key", "poster": "poster"}  # a result's file -> the placeholder for its key
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
RESULT = re.compile(r"/files/[A-Za-z0-9_-]{32}/(film|poster)\.")
DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?")


def stable(value: Any, replace: dict[str, str], times: frozenset[str]) -> Any:
    """Replaces the parts of `value` that differ between runs by placeholders. `times` are the names of members with a
    time or a duration."""
    if isinstance(value, dict):
        return {
            name: "<time>"
            if name in times and isinstance(part, int | float) and not isinstance(part, bool)
            else stable(part, replace, times)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [stable(part, replace, times) for part in value]
    if isinstance(value, str):
        for old, new in replace.items():
            value = value.replace(old, new)
        value = RESULT.sub(lambda found: f"/files/{KINDS[found[1]]}-<uuid>/{found[1]}.", value)
        return DATE.sub("<date>", UUID.sub("<uuid>", value))
    return value


def check(name: str, answer: Any, *, times: tuple[str, ...] = (), replace: dict[str, str] | None = None) -> None:
    """Compares `answer` with the file. `answer` is a JSON value or a `requests` or `httpx` response, whose status and
    body are compared."""
    if hasattr(answer, "status_code"):
        answer = {"http": answer.status_code, "body": answer.json()}
    found = stable(answer, replace or {}, frozenset(times))
    path = FOLDER / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    wanted = json.loads(path.read_text(encoding="utf-8"))
    assert found == wanted, f"{path.name}: {json.dumps(found, indent=2)[:4000]}"
    assert json.dumps(found) == json.dumps(wanted), f"{path.name}: the members' order changed"
