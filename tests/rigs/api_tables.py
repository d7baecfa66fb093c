"""The fields that a façade accepts, from its OpenAPI schema and from its page in docs/apis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs" / "apis"
METHODS = ("get", "post", "put", "patch", "delete", "query")
HEADING = re.compile(r"^### ([A-Z]+) (/\S*)\s*$")
ROW = re.compile(r"^\|\s*`([^`]+)`\s*\|\s*([^|]*?)\s*\|(.*)\|\s*$")
JSON, FORM = "application/json", "multipart/form-data"


@dataclass(frozen=True, eq=False)
class Field:
    """`where` is body, query or header. `name` is `object.member` for a member of an object in the body."""

    name: str
    where: str
    schema: dict[str, Any]
    required: bool = False

    @property
    def examples(self) -> list[Any]:
        return list(self.schema.get("examples", self.schema.get("enum", [])))

    @property
    def is_file(self) -> bool:
        return self.schema.get("format") == "binary" or self.schema.get("contentMediaType") is not None


@dataclass(frozen=True)
class Call:
    vendor: str
    method: str
    path: str
    media: tuple[str, ...]  # content types of the body
    fields: tuple[Field, ...]
    places: dict[str, Any]  # an example for each path parameter that has examples

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    @property
    def top(self) -> list[Field]:
        return [field for field in self.fields if "." not in field.name]


def calls(vendor: str, document: dict[str, Any]) -> list[Call]:
    """The calls that accept a body, a query or headers."""
    found = []
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                found.append(_call(vendor, method.upper(), path, operations[method], document))
    return [call for call in found if call.fields or call.media]


def _call(vendor: str, method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> Call:
    content = operation.get("requestBody", {}).get("content", {})
    fields: dict[str, Field] = {}
    for media in content.values():
        for field in _members(media.get("schema", {}), document):
            fields.setdefault(field.name, field)
            for member in _members(field.schema, document):
                name = f"{field.name}.{member.name}"
                fields.setdefault(name, Field(name, "body", member.schema, member.required))
    places = {}
    for parameter in operation.get("parameters", []):
        field = Field(parameter["name"], parameter["in"], parameter["schema"], parameter.get("required", False))
        if parameter["in"] == "path":
            places |= dict.fromkeys([field.name], field.examples[0]) if field.examples else {}
        else:
            fields[field.name] = field
    return Call(vendor, method, path, tuple(content), tuple(fields.values()), places)


def _members(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[Field]:
    """The fields of an object schema, including the fields of all alternatives (anyOf, oneOf)."""
    for choice in schema.get("anyOf", schema.get("oneOf", [])):
        yield from _members(choice, document)
    if "$ref" in schema:
        yield from _members(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    for name, member in schema.get("properties", {}).items():
        yield Field(name, "body", member, name in schema.get("required", []))


@dataclass(frozen=True)
class Row:
    field: str
    word: str
    reason: str


def tables(vendor: str) -> dict[str, list[Row]]:
    """The rows below each heading `### METHOD /path`."""
    found: dict[str, list[Row]] = {}
    rows: list[Row] | None = None
    for line in (DOCS / f"{vendor}.md").read_text("utf-8").splitlines():
        if heading := HEADING.match(line):
            rows = found.setdefault(f"{heading[1]} {heading[2]}", [])
        elif line.startswith("#"):
            rows = None
        elif rows is not None and (row := ROW.match(line)):
            rows.append(Row(row[1], row[2], row[3].strip()))
    return found
