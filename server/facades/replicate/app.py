"""Replicate's calls."""

from __future__ import annotations

from fastapi import FastAPI

from server.context import Context

PREFIXES = (
    "/v1/predictions",
    "/v1/deployments",
    "/v1/account",
    "/v1/webhooks",
    "/v1/trainings",
    "/v1/collections",
    "/v1/hardware",
    "/replicate",
)


def create(context: Context) -> FastAPI:
    return FastAPI(title="Replicate", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
