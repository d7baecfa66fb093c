"""A stand-in for S3 in this process: moto."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "films"


class Cloud:
    """An S3 server that tests can stop and start again; it keeps its data."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, self._port = self._server.get_host_and_port()
        self.address = f"http://{host}:{self._port}"
        client = boto3.client("s3", endpoint_url=self.address, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        client.close()

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def url(self) -> str:
        """URL of an unused prefix in the bucket."""
        return f"s3://{BUCKET}/{uuid.uuid4()}"


@contextmanager
def cloud() -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", "id")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patched.setenv("AWS_REGION", "us-east-1")
        patched.setenv("NO_PROXY", "127.0.0.1")
        patched.delenv("AWS_CA_BUNDLE", raising=False)
        patched.setattr("server.media.storage_s3.RETRIES", 1)
        patched.setattr("server.media.storage_s3.FIRST_WAIT", timedelta(seconds=0.1))
        made = Cloud()
        patched.setenv("AWS_ENDPOINT_URL", made.address)
        try:
            yield made
        finally:
            made.stop()
