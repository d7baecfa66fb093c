"""The real Java HttpClient and `curl --http2` offer HTTP/2 with every request, and the server answers them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.rigs import pace
from tests.rigs.house import app, house_of
from tests.rigs.live import API, asking, last_prompt, live

JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;

class Client {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int at = 0; at < given.length; at += 3) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[at + 1]))
                .header("Content-Type", "application/json")
                .method(given[at], HttpRequest.BodyPublishers.ofFile(Path.of(given[at + 2]))).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""
pytestmark = pytest.mark.slow
Send = Callable[[str, str, bytes], str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FastAPI]]:
    made = app(tmp_path_factory.mktemp("server"))
    with live(made) as port:
        yield f"http://127.0.0.1:{port}", made


@pytest.fixture(params=["java", "curl"])
def send(request: pytest.FixtureRequest, tmp_path: Path) -> Send:
    """Returns a function that sends a body and returns the status code."""
    if shutil.which("curl" if request.param == "curl" else "javac") is None:  # only a JDK contains javac
        pytest.skip(f"no {request.param} here")
    (tmp_path / "Client.java").write_text(JAVA)

    def sent(method: str, address: str, body: bytes) -> str:
        file = tmp_path / "body"
        file.write_bytes(body)
        command = ["java", str(tmp_path / "Client.java"), method, address, str(file)]
        if request.param == "curl":
            command = ["curl", "--http2", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method]
            command += ["-H", "Content-Type: application/json", "--data-binary", f"@{file}", "--noproxy", "*", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=pace.seconds(120))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return sent


@API
def test_every_api_has_the_body(server: tuple[str, FastAPI], send: Send, name: str) -> None:
    base, made = server
    path, body = asking(name, "from afar")
    assert send("POST", base + path, body) in ("200", "201")
    assert last_prompt(made, name) == "steps=1 from afar"


def test_an_upload_is_whole(server: tuple[str, FastAPI], send: Send) -> None:
    asked = {"file_name": "a.bin", "content_type": "application/octet-stream"}
    told = httpx.post(f"{server[0]}/storage/upload/initiate", json=asked, trust_env=False).json()
    data = json.dumps(["x" * 1000] * 200).encode()
    assert send("PUT", told["upload_url"], data) == "200"
    kept = told["file_url"].split("/")[-2]
    artifacts = house_of(server[1]).context.artifacts
    found = artifacts.find(kept)
    assert found is not None and artifacts.read(found) == data
