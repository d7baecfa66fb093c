"""Models, versions, deployments, collections, hardware and the account, as Replicate shows them."""

from __future__ import annotations

from typing import Any

from server.facades.replicate.models import MODELS, Model

CREATED = "2024-09-17T00:00:00.000000Z"
COG = "0.9.25"  # clients infer the conventions of the schema from this version of Cog
HARDWARE = {"name": "This server", "sku": "local"}
ACCOUNT = {"type": "user", "username": "cogvideox", "name": "CogVideoX server", "github_url": None, "avatar_url": None}
COLLECTION = {
    "name": "Generate videos",
    "slug": "text-to-video",
    "description": "Models that generate videos",
    "full_description": None,
}


def page(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"previous": None, "next": None, "results": results}


def model(model: Model, root: str) -> dict[str, Any]:
    """`root`: our URL up to Replicate's `/v1`."""
    return {
        "url": f"{root}/v1/models/{model.slug}",
        "owner": model.owner,
        "name": model.name,
        "description": model.description,
        "visibility": "public",
        "is_official": False,
        "github_url": "https://github.com/THUDM/CogVideo",
        "paper_url": "https://arxiv.org/abs/2408.06072",
        "license_url": "https://huggingface.co/THUDM/CogVideoX-5b/blob/main/LICENSE",
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version(model, model.version),
    }


def version(model: Model, version_id: str) -> dict[str, Any]:
    return {"id": version_id, "created_at": CREATED, "cog_version": COG, "openapi_schema": schema(model)}


def schema(model: Model) -> dict[str, Any]:
    """An OpenAPI document in Cog's form, with the parts that clients read."""
    own = model.input.model_json_schema()
    properties = {}
    for order, (name, spec) in enumerate(own["properties"].items()):
        kinds = [part for part in spec.pop("anyOf", []) if part.get("type") != "null"]
        given = {key: value for key, value in {**spec, **(kinds[0] if kinds else {})}.items() if key != "examples"}
        if given.get("default", ...) is None:
            del given["default"]
        properties[name] = {**given, "x-order": order}
    wanted = {"type": "object", "title": "Input", "required": own["required"], "properties": properties}
    output = {"type": "string", "title": "Output", "format": "uri"}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {},
        "components": {"schemas": {"Input": wanted, "Output": output}},
    }


def deployment(owner: str, name: str, model: Model) -> dict[str, Any]:
    return {
        "owner": owner,
        "name": name,
        "current_release": {
            "number": 1,
            "model": model.slug,
            "version": model.version,
            "created_at": CREATED,
            "created_by": ACCOUNT,
            "configuration": {"hardware": HARDWARE["sku"], "min_instances": 1, "max_instances": 1},
        },
    }


def collection(root: str) -> dict[str, Any]:
    return {**COLLECTION, "models": [model(one, root) for one in MODELS.values()]}


def matching(query: str) -> list[Model]:
    """The models that contain each word of `query` in their name or description."""
    words = query.lower().split()
    return [one for one in MODELS.values() if all(word in f"{one.slug} {one.description}".lower() for word in words)]
