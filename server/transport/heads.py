"""Adds HEAD to every GET route."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from fastapi import FastAPI
from fastapi.routing import APIRoute

WORKING = "/run/"  # in fal's API, a GET below this path makes a video


def answer_heads(apps: Iterable[FastAPI]) -> None:
    """Adds the HEAD routes. NOTE: a single route for GET and HEAD would become two operations with the same id in the
    OpenAPI document."""
    for app in apps:
        for route in [one for one in app.router.routes if isinstance(one, APIRoute) and "GET" in (one.methods or ())]:
            if not route.path.startswith(WORKING):
                head = copy(route)
                head.methods, head.include_in_schema = {"HEAD"}, False
                app.router.routes.append(head)
