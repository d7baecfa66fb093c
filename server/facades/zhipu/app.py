"""The routes of Zhipu, Z.ai, 302.AI and their relays."""

from __future__ import annotations

from fastapi import FastAPI

from server.context import Context
from server.facades.kit.app import add, create_app
from server.facades.kit.openapi import body_schema, parameter
from server.facades.zhipu import errors
from server.facades.zhipu.calls import Zhipu
from server.facades.zhipu.models import Tasks, UnifiedVideo, VideoGeneration

NATIVE = "/api/paas/v4"
MOUNTS = (NATIVE, "/zhipu/api/paas/v4", "/paas/v4", "/bigmodel/api/paas/v4", "/cogvideox/v4")
UNIFIED = "/302/v2/video"
UNIFIED_TYPES = ("application/json", "multipart/form-data")


def create(context: Context) -> FastAPI:
    app = create_app(context, errors.refuse, VideoGeneration, Tasks, UnifiedVideo)
    zhipu = Zhipu(context)
    video, tasks = body_schema(VideoGeneration), body_schema(Tasks)
    unified = {
        **body_schema(UnifiedVideo, types=UNIFIED_TYPES),
        "parameters": [parameter("query", "webhook", "https://example.com/hook", "http://example.org/")],
    }
    asked = {"parameters": [parameter("query", "geo", "global", "cn")]}
    for mount in MOUNTS:
        shown, path = mount == NATIVE, f"{mount}/async-result/{{task_id}}"
        add(app, "POST", f"{mount}/videos/generations", zhipu.create, "create", video, shown=shown)
        add(app, "GET", path, zhipu.result, "result", asked, shown=shown)
        add(app, "POST", path, zhipu.result, "result", shown=False)
    add(app, "POST", "/cogvideox/v4/async-results", zhipu.results, "results", tasks)
    add(app, "POST", f"{UNIFIED}/create", zhipu.create_unified, "create_unified", unified)
    add(app, "GET", f"{UNIFIED}/fetch/{{task_id}}", zhipu.fetch_unified, "fetch_unified")
    return app
