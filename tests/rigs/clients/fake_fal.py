"""fal's façade over jobs that end on command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from server.context import Context
from server.datadir import DataDir
from server.facades import fal
from server.media.artifacts import Artifacts
from server.media.fetch import Intake
from server.media.outbound import Outbound
from server.media.uploads import Uploads
from tests.rigs.clients.fake import FakeJobs, fake_context

APP = "/fal-ai/cogvideox-5b"
RUN = f"/run{APP}"
QUEUE = f"/queue{APP}"
HERE = "http://here:8000"
Served = tuple[TestClient, FakeJobs]


def build(**settings: Any) -> Served:
    context, jobs, _ = fake_context(**settings)
    return client_of(context), jobs


def client_of(context: Context) -> TestClient:
    return TestClient(fal.create(context), base_url=HERE, raise_server_exceptions=False)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Store:
    """The façade over files that are really kept; `clock` is theirs."""

    client: TestClient
    jobs: FakeJobs
    context: Context
    clock: Clock


@contextmanager
def built_with_files(folder: Path, **settings: Any) -> Iterator[Store]:
    plain, jobs, _ = fake_context(**settings)
    data, clock = DataDir(folder / "data"), Clock()
    artifacts = Artifacts(
        data, plain.settings.public_url, clock, file_at=lambda path: fal.FACADE.file_of(context, path)
    )
    uploads, intake = Uploads(data, artifacts), Intake(data, artifacts, Outbound(lambda _: False), plain.inspectors)
    context = replace(plain, data=data, artifacts=artifacts, uploads=uploads, intake=intake)
    with client_of(context) as client:
        yield Store(client, jobs, context, clock)
        assert client.portal is not None
        client.portal.call(intake.close)
        client.portal.call(plain.inspectors.close)
    data.close()
