"""Zhipu / Z.ai / 302.AI's calls."""

from __future__ import annotations

from fastapi import FastAPI

from server.context import Context

PREFIXES = ("/api/paas/v4", "/zhipu", "/paas/v4", "/bigmodel", "/cogvideox/v4", "/302")


def create(context: Context) -> FastAPI:
    return FastAPI(
        title="Zhipu / Z.ai / 302.AI", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
