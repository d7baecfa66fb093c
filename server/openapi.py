"""Merges the OpenAPI documents of several apps into one.

Knows: OpenAPI's references. Does not know: the apps. If schemas of two apps have the same name, the app's name becomes
a prefix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

SCHEMAS = "#/components/schemas/"


def merged(base: dict[str, Any], apps: Mapping[str, FastAPI]) -> dict[str, Any]:
    """`base` with the paths and schemas of `apps` added. Every operation of an app is tagged with the app's name."""
    document = json.loads(json.dumps(base))
    paths = document.setdefault("paths", {})
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name, app in apps.items():
        part = json.loads(json.dumps(app.openapi()))
        own = part.get("components", {}).get("schemas", {})
        renamed = {key: f"{name}_{key}" for key, schema in own.items() if key in schemas and schemas[key] != schema}
        part = _rename(part, {SCHEMAS + old: SCHEMAS + new for old, new in renamed.items()})
        for path, operations in part.get("paths", {}).items():
            for operation in operations.values():
                if isinstance(operation, dict):
                    operation["tags"] = [name]
            paths.setdefault(path, {}).update(operations)
        components = part.get("components", {})
        for key, schema in components.get("schemas", {}).items():
            schemas[renamed.get(key, key)] = schema
        for kind in set(components) - {"schemas"}:
            document["components"].setdefault(kind, {}).update(components[kind])
    return dict(document)


def _rename(value: Any, references: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _rename(v, references) for k, v in value.items()}
    if isinstance(value, list):
        return [_rename(v, references) for v in value]
    return references.get(value, value) if isinstance(value, str) else value
