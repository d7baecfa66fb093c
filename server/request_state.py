"""What the façade that answers a request leaves in its `state` for the middleware around it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

MODELS = "models"
REFUSAL = "refusal"


def note_model(request: Request, name: str) -> None:
    """The response concerns a job of this model; one response may concern several. A job refused before it began has
    none."""
    if name:
        _state(request.scope).setdefault(MODELS, set()).add(name)


def models_of(scope: Scope) -> Collection[str]:
    models: set[str] = _state(scope).get(MODELS, set())
    return models


def note_refusal(request: Request, error: Exception) -> None:
    """The exception that ended the request, for the log."""
    _state(request.scope)[REFUSAL] = error


def take_refusal(scope: Scope) -> Exception | None:
    """NOTE: it leaves the state, because an exception that its request refers to would keep the body in memory until
    the next garbage collection."""
    refusal: Exception | None = _state(scope).pop(REFUSAL, None)
    return refusal


def _state(scope: Scope) -> dict[str, Any]:
    state: dict[str, Any] = scope.setdefault("state", {})
    return state
