"""Runs the whole server in a thread, on its own port, as `cogvideox serve` does. Also defines one call to each API."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.limits.connections import Connections
from server.serve import Server
from tests.rigs import pace
from tests.rigs.house import house_of

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "fal": ("/queue/fal-ai/cogvideox-5b", {"prompt": "steps=1"}),
    "segmind": ("/v2/cog-video-5b-t2v", {"prompt": "steps=1"}),
    "zhipu": ("/api/paas/v4/videos/generations", {"model": "cogvideox-2", "prompt": "steps=1"}),
    "modelslab": ("/api/v6/video/text2video", {"model_id": "cogvideox", "prompt": "steps=1", "instant_response": True}),
    "openai": ("/v1/videos", {"prompt": "steps=1"}),
    "replicate": ("/v1/models/cuuupid/cogvideox-5b/predictions", {"input": {"prompt": "steps=1"}}),
    "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b", {"inputs": "steps=1"}),
}
API = pytest.mark.parametrize("name", CALLS)


@contextmanager
def live(app: Any) -> Iterator[int]:
    """Runs the server and yields its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        started = threading.Event()
        config = uvicorn.Config(app, log_config=None, ws="none", lifespan="on", timeout_graceful_shutdown=1)
        server = Server(config, Connections(100, 100, lambda _: True), None, started.set)

        def run() -> None:
            asyncio.run(server._serve([listener]))

        running = threading.Thread(target=run)
        running.start()
        try:
            assert started.wait(pace.seconds(30))
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            running.join(pace.seconds(20))


def exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Sends raw bytes; returns the head in lower case and the body, read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), pace.seconds(20)) as line:
        line.sendall(request)
        found = b""
        while data := line.recv(2**16):
            found += data
    head, _, body = found.partition(b"\r\n\r\n")
    return head.lower(), body


def last_prompt(made: FastAPI, name: str) -> str:
    return house_of(made).context.jobs.page(name, "", 1)[0].request.prompt


def asking(name: str, prompt: str) -> tuple[str, bytes]:
    path, fields = CALLS[name]
    return path, json.dumps(fields).replace("steps=1", f"steps=1 {prompt}").encode()


def upload_address(client: TestClient) -> str:
    asked = {"file_name": "a.bin", "content_type": "application/octet-stream"}
    address: str = client.post("/storage/upload/initiate", json=asked).json()["upload_url"]
    return address
