"""Hugging Face's calls."""

from __future__ import annotations

from fastapi import FastAPI

from server.context import Context

PREFIXES = ("/hf-inference", "/models", "/huggingface")


def create(context: Context) -> FastAPI:
    return FastAPI(title="Hugging Face", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
