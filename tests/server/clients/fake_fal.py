"""fal's façade over jobs that end on command."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from server.facades import fal
from tests.server.clients.fake import FakeJobs, fake_context

APP = "/fal-ai/cogvideox-5b"
RUN = f"/run{APP}"
QUEUE = f"/queue{APP}"
Served = tuple[TestClient, FakeJobs]


def build(**settings: Any) -> Served:
    context, jobs, _ = fake_context(**settings)
    return TestClient(fal.create(context), base_url="http://here:8000", raise_server_exceptions=False), jobs
