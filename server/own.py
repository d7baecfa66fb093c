"""The server's own endpoints: overview, health, and result files."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.facades.routes import PREFIXES
from server.health import Health
from server.media.artifacts import Artifacts
from server.media.storage import CORS
from server.served import REAL_WEIGHTS

FILE_THREADS = 16  # threads for storage calls; few, so that a slow storage does not block all 40 threads for requests


def add_pages(app: FastAPI, health: Health, artifacts: Artifacts, apis: Collection[str]) -> None:
    """`apis`: the names of the clouds whose APIs are served."""
    files = CapacityLimiter(FILE_THREADS)

    @app.get("/", tags=["server"])
    def overview() -> dict[str, Any]:
        """The models and the APIs of this server."""
        about: dict[str, Any] = {
            "name": "cogvideox-server",
            "version": app.version,
            "models": {task.value: info.name for task, info in sorted(health.served.by_task.items())},
            "apis": {name: list(PREFIXES[name]) for name in apis},
            "docs": "/docs",
            "health": "/health",
        }
        return about | ({"note": REAL_WEIGHTS} if health.served.is_demo else {})

    @app.get("/health", tags=["server"])
    def state() -> dict[str, Any]:
        """Models, devices, workers and queue."""
        return health.report()

    @app.get("/health/live", tags=["server"])
    async def live() -> dict[str, str]:
        """200 while the server answers requests."""
        return {"status": "alive"}

    @app.get("/health/ready", tags=["server"])
    def ready() -> Response:
        """200 if a job submitted now would run, otherwise 503 with the reasons."""
        obstacles = health.obstacles()
        body = {"status": "not ready" if obstacles else "ready", "problems": obstacles}
        return JSONResponse(body, 503 if obstacles else 200)

    @app.get("/files/{key}/{name}", tags=["server"], response_class=FileResponse)
    async def file(request: Request, key: str, name: str) -> Response:
        """Sends a result to anyone who knows its URL."""
        return await to_thread.run_sync(artifacts.respond, request, key, name, limiter=files)

    @app.options("/files/{key}/{name}", include_in_schema=False)
    async def file_preflight(key: str, name: str) -> Response:
        allowed = {"access-control-allow-methods": "GET, HEAD", "access-control-allow-headers": "*"}
        return Response(status_code=204, headers={**CORS, **allowed})
