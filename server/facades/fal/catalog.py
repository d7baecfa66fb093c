"""fal's catalogue of this server's apps: metadata, prices, OpenAPI documents and pages, generated from `models`."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pipelines.ranges import MAX_SIDE
from pipelines.request import Task
from server.facades.fal.models import DEFAULT_SIZE, ENDPOINTS, Endpoint, ImageSize, LoraWeight, Output

SCHEMAS = "#/components/schemas/"
MIN_SIDE = 16
DATE = "2024-08-27T00:00:00.000Z"  # when the models were published
TITLES = {Task.T2V: "Text to Video", Task.I2V: "Image to Video", Task.V2V: "Video to Video"}
SOURCES = {Task.T2V: "prompts", Task.I2V: "an image and a prompt", Task.V2V: "a video and a prompt"}
QUEUE_STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
        "request_id": {"type": "string"},
        "response_url": {"type": "string"},
        "status_url": {"type": "string"},
        "cancel_url": {"type": "string"},
        "logs": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "metrics": {"type": "object", "additionalProperties": True},
        "queue_position": {"type": "integer"},
    },
    "required": ["status", "request_id"],
}


def metadata(endpoint: Endpoint, base: str) -> dict[str, Any]:
    """`base`: this server's URL."""
    return {
        "display_name": f"CogVideoX-5B {TITLES[endpoint.task]}",
        "category": endpoint.task.value,
        "description": f"Makes videos from {SOURCES[endpoint.task]} with the CogVideoX model served here.",
        "status": "active",
        "tags": ["cogvideox", "self-hosted", "lora"],
        "updated_at": DATE,
        "is_favorited": None,
        "thumbnail_url": "",
        "model_url": f"{base}/run/{endpoint.id}",
        "date": DATE,
        "highlighted": False,
        "kind": "inference",
        "pinned": False,
    }


def entry(endpoint_id: str, base: str, expand: bool) -> dict[str, Any]:
    """Describes an app for the list. The entry of an unknown id has no metadata, as at fal."""
    endpoint = ENDPOINTS.get(endpoint_id)
    if endpoint is None:
        unknown = {"error": {"code": "expansion_failed", "message": "There is no such app here"}}
        return {"endpoint_id": endpoint_id, **({"openapi": unknown} if expand else {})}
    known = {"endpoint_id": endpoint.id, "metadata": metadata(endpoint, base)}
    return {**known, "openapi": openapi(endpoint, base)} if expand else known


def found(q: str, category: str, status: str) -> list[str]:
    """The ids of the apps whose descriptions contain each word of `q`, and that have the given category and status. An
    empty category or status means any."""
    return [
        endpoint.id
        for endpoint in ENDPOINTS.values()
        if (about := metadata(endpoint, ""))
        and category in ("", about["category"])
        and status in ("", about["status"])
        and all(word in f"{endpoint.id} {json.dumps(about)}".lower() for word in q.lower().split())
    ]


def price(endpoint_id: str) -> dict[str, Any]:
    return {"endpoint_id": endpoint_id, "unit_price": 0.0, "unit": "videos", "currency": "USD"}


def openapi(endpoint: Endpoint, base: str) -> dict[str, Any]:
    """The OpenAPI document of one app's queue, in fal's form."""
    name = "".join(part.capitalize() for part in re.split("[/-]", endpoint.id.partition("/")[2]))
    given, made = f"{name}Input", f"{name}Output"
    ask, requests = f"/{endpoint.id}", f"/{endpoint.id}/requests/{{request_id}}"
    which = {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}
    logs = {"name": "logs", "in": "query", "required": False, "schema": {"type": "number"}}
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"Queue OpenAPI for {endpoint.id}",
            "version": "1.0.0",
            "description": f"The OpenAPI schema for the {endpoint.id} queue.",
            "x-fal-metadata": {
                "endpointId": endpoint.id,
                "category": endpoint.task.value,
                "thumbnailUrl": "",
                "playgroundUrl": f"{base}/models/{endpoint.id}/llms.txt",
                "documentationUrl": f"{base}/models/{endpoint.id}/llms.txt",
            },
        },
        "components": {
            "securitySchemes": {"apiKeyAuth": {"type": "apiKey", "in": "header", "name": "Authorization"}},
            "schemas": {"QueueStatus": QUEUE_STATUS, **_schemas(endpoint.input, given, made)},
        },
        "paths": {
            f"{requests}/status": {
                "get": {"parameters": [which, logs], **_answer("QueueStatus", "The request status.")}
            },
            f"{requests}/cancel": {"put": {"parameters": [which], **_answer(None, "The request was cancelled.")}},
            ask: {
                "post": {
                    "requestBody": {"required": True, "content": _json(given)},
                    **_answer("QueueStatus", "The request status."),
                }
            },
            requests: {"get": {"parameters": [which], **_answer(made, "Result of the request.")}},
        },
        "servers": [{"url": f"{base}/queue"}],
        "security": [{"apiKeyAuth": []}],
    }


def llms_txt(endpoint: Endpoint, base: str) -> str:
    """A description of the app for language models: fields, ranges, defaults, an example call."""
    about, schemas = metadata(endpoint, base), _schemas(endpoint.input, "Input", "Output")
    fields = schemas["Input"]
    needed = {name: fields["properties"][name]["examples"][0] for name in fields["required"]}
    shown = {name: f"{value[:60]}..." if value.startswith("data:") else value for name, value in needed.items()}
    return f"""\
# {about["display_name"]}

> {about["description"]}

## Overview

- **Endpoint**: `{base}/run/{endpoint.id}`
- **Queue**: `{base}/queue/{endpoint.id}`
- **Model ID**: `{endpoint.id}`
- **Category**: {about["category"]}
- **Kind**: inference
- **Price**: 0

## Input Schema

{_listed(fields)}

An image size is an object with `width` and `height`, or one of the words. A LoRA is an object:

{_listed(schemas["LoraWeight"])}

## Output Schema

{_listed(schemas["Output"])}

The video is an object with `url`, `content_type`, `file_name` and `file_size`.

## Usage

```bash
curl --request POST --url {base}/run/{endpoint.id} \\
  --header "Authorization: Key $FAL_KEY" --header "Content-Type: application/json" \\
  --data '{json.dumps(shown)}'
```

- [OpenAPI Schema]({base}/api/openapi/queue/openapi.json?endpoint_id={endpoint.id})
"""


def _schemas(model: type[BaseModel], given: str, made: str) -> dict[str, Any]:
    """Name -> schema, for the app's input, for its output, and for the objects that the input and the output
    contain."""
    kinds = [(kind, "validation") for kind in (model, ImageSize, LoraWeight, Output)]
    _, whole = models_json_schema(kinds, ref_template=f"{SCHEMAS}{{model}}")  # type: ignore[arg-type]
    schemas = {name: _plain(schema) for name, schema in whole["$defs"].items()}
    fields, output = schemas.pop(model.__name__), schemas.pop(Output.__name__)
    fields["properties"]["prompt"]["minLength"] = 1
    fields["properties"]["video_size"]["default"] = {"width": DEFAULT_SIZE[0], "height": DEFAULT_SIZE[1]}
    for side in schemas["ImageSize"]["properties"].values():  # our models' range is narrower than fal's range
        side.pop("exclusiveMinimum", None)
        side |= {"minimum": MIN_SIDE, "maximum": min(side["maximum"], MAX_SIDE)}
    return {**schemas, given: fields, made: output}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Removes null types, which OpenAPI 3.0 does not have. Keeps `examples`, because fal uses `examples` although
    OpenAPI 3.0 does not have that keyword."""
    properties = {}
    for name, spec in schema["properties"].items():
        kinds = [kind for kind in spec.pop("anyOf", []) if kind.get("type") != "null"]
        plain = {**spec, **kinds[0]} if len(kinds) == 1 else {**spec, **({"anyOf": kinds} if kinds else {})}
        if plain.get("default", ...) is None:
            del plain["default"]
        properties[name] = plain
    return {**schema, "properties": properties, "x-fal-order-properties": list(properties)}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"{SCHEMAS}{name}"}}}


def _answer(name: str | None, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}} if name is None else _json(name)
    return {"responses": {"200": {"description": description, "content": content}}}


def _listed(schema: dict[str, Any]) -> str:
    lines = []
    for name, spec in schema["properties"].items():
        needed = "_required_" if name in schema.get("required", ()) else "_optional_"
        lines.append(f"- **`{name}`** (`{_kind(spec)}`, {needed})")
        low, high = (spec.get(key) for key in ("minimum", "maximum"))
        said = {
            "": spec.get("description"),
            "Default": json.dumps(spec["default"]) if "default" in spec else None,
            "Range": f"{low} to {high}" if low is not None and high is not None else None,
            "At most": spec.get("maxItems"),
            "Words": ", ".join(word for kind in spec.get("anyOf", ()) for word in kind.get("enum", ())) or None,
        }
        lines += [f"  - {f'{key}: ' if key else ''}{value}" for key, value in said.items() if value is not None]
    return "\n".join(lines)


def _kind(spec: dict[str, Any]) -> str:
    if "anyOf" in spec:
        return " | ".join(_kind(kind) for kind in spec["anyOf"])
    if "$ref" in spec:
        return str(spec["$ref"]).rpartition("/")[2]
    if spec.get("type") == "array":
        return f"list<{_kind(spec['items'])}>"
    return "enum" if "enum" in spec else str(spec.get("type", "object"))
