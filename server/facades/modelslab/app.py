"""ModelsLab's calls."""

from __future__ import annotations

from fastapi import FastAPI

from server.context import Context

PREFIXES = ("/api/v6", "/api/v1/enterprise", "/api/v7", "/modelslab", "/generations")


def create(context: Context) -> FastAPI:
    return FastAPI(title="ModelsLab", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
