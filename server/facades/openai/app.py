"""OpenAI's calls."""

from __future__ import annotations

from fastapi import FastAPI

from server.context import Context

PREFIXES = (
    "/v1/videos",
    "/v1/chat",
    "/v1/images",
    "/v1/audio",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/openai",
)


def create(context: Context) -> FastAPI:
    return FastAPI(title="OpenAI", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
