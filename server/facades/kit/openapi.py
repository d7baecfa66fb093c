"""OpenAPI documentation for calls that read their bodies themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema


def body_schema(*models: type[BaseModel], types: Iterable[str] = ("application/json",)) -> dict[str, Any]:
    """Returns the `openapi_extra` of a route that reads its body itself. `document` adds the schemas of `models`."""
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"requestBody": {"required": True, "content": {media: {"schema": schema} for media in types}}}


def parameter(
    place: str,
    name: str,
    *examples: Any,
    type: str = "string",
    required: bool | None = None,
    description: str = "",
    **schema: Any,
) -> dict[str, Any]:
    """Describes a parameter. `place`: header, path or query."""
    about: dict[str, Any] = {"name": name, "in": place, "schema": {"type": type, **schema}}
    about |= {"description": description} if description else {}
    about |= {"required": required} if required is not None else {}
    about["schema"] |= {"examples": list(examples)} if examples else {}
    return about


def document(app: FastAPI, models: Iterable[type[BaseModel]]) -> None:
    """Adds the schemas of `models` to the app's OpenAPI document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            _, extra = models_json_schema(
                [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(extra.get("$defs", {}))
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
