"""Data that a façade stores in a request's `state` for the middleware."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

MODELS = "models"
REFUSAL = "refusal"


def note_model(request: Request, name: str) -> None:
    """Notes that the response concerns a job of this model. Call it once for each model if the response concerns
    several jobs. `name` is "" for a job that was refused before it began."""
    if name:
        _state(request.scope).setdefault(MODELS, set()).add(name)


def models_of(scope: Scope) -> Collection[str]:
    models: set[str] = _state(scope).get(MODELS, set())
    return models


def note_refusal(request: Request, error: Exception) -> None:
    """Stores the exception that ended the request, for the log."""
    _state(request.scope)[REFUSAL] = error


def take_refusal(scope: Scope) -> Exception | None:
    """Returns the stored exception and removes it from the request. NOTE: request and exception refer to each other, so
    a stored exception would keep the body in memory until the next garbage collection."""
    refusal: Exception | None = _state(scope).pop(REFUSAL, None)
    return refusal


def _state(scope: Scope) -> dict[str, Any]:
    state: dict[str, Any] = scope.setdefault("state", {})
    return state
