"""OpenAI's routes, and the parameters of its lists."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from server.context import Context
from server.facades.kit.app import add, create_app
from server.facades.kit.openapi import body_schema, parameter
from server.facades.openai import errors
from server.facades.openai.calls import LONGEST_PAGE, PAGE, VARIANTS, Videos
from server.facades.openai.files import LONGEST_PAGE as MOST_FILES
from server.facades.openai.files import Files
from server.facades.openai.models import PURPOSES, CreateFile, CreateVideo, ExpiresAfter, RemixVideo
from server.facades.openai.query import ORDERS

ALIAS = "/openai"
FORM_ONLY = ("multipart/form-data",)
BOTH = ("multipart/form-data", "application/json")


_query = partial(parameter, "query", required=False)


def _page(example: str, most: int, default: int) -> list[dict[str, Any]]:
    return [
        _query("after", example),
        _query("limit", 5, 20, type="integer", minimum=1, maximum=most, default=default),
        _query("order", *ORDERS, enum=[*ORDERS], default=ORDERS[0]),
    ]


LIST: dict[str, Any] = {"parameters": _page("video_0123456789abcdef0123456789abcdef", LONGEST_PAGE, PAGE)}
LIST_FILES: dict[str, Any] = {
    "parameters": [
        *_page("file-0123456789abcdef0123456789abcdef", MOST_FILES, MOST_FILES),
        _query("purpose", *PURPOSES[:2]),
    ]
}
CONTENT: dict[str, Any] = {"parameters": [_query("variant", *VARIANTS[:2], enum=[*VARIANTS], default=VARIANTS[0])]}


def create(context: Context) -> FastAPI:
    schemas = (CreateVideo, RemixVideo, CreateFile, ExpiresAfter)
    app = create_app(context, errors.refuse, *schemas, admit=admit)
    videos, files = Videos(context), Files(context)
    create_video = body_schema(CreateVideo, types=BOTH)
    add(app, "POST", "/v1/videos", videos.create, "create", create_video)
    add(app, "POST", "/v1/videos/sync", videos.sync, "create and wait", create_video)
    add(app, "GET", "/v1/videos", videos.list, "list", LIST)
    add(app, "GET", "/v1/videos/{video_id}", videos.retrieve, "retrieve")
    add(app, "DELETE", "/v1/videos/{video_id}", videos.delete, "delete")
    add(app, "GET", "/v1/videos/{video_id}/content", videos.content, "content", CONTENT)
    add(app, "POST", "/v1/videos/{video_id}/remix", videos.remix, "remix", body_schema(RemixVideo))
    add(app, "GET", "/v1/models", videos.models, "models")
    add(app, "GET", "/v1/models/{name:path}", videos.model, "model")
    add(app, "POST", "/v1/files", files.create, "upload file", body_schema(CreateFile, types=FORM_ONLY))
    add(app, "GET", "/v1/files", files.list, "files", LIST_FILES)
    add(app, "GET", "/v1/files/{file_id}", files.retrieve, "file")
    add(app, "DELETE", "/v1/files/{file_id}", files.delete, "delete file")
    return app


def admit(context: Context, request: Request) -> None:
    path = request.scope["path"].rstrip("/")
    request.scope["path"] = (path.removeprefix(ALIAS) if path.startswith(f"{ALIAS}/") else path) or "/"
    request.state.owner = context.keys.identify(request.headers)
