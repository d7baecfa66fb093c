"""The server works behind nginx with the configuration block from docs/operations.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from fastapi import FastAPI

from tests.rigs import pace
from tests.rigs.browser import needs_browser, shown
from tests.rigs.clients.running import free_port
from tests.rigs.house import app, ended, house_of
from tests.rigs.live import live

DOCS = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
CONF = """
{user}daemon off;
pid {folder}/pid;
error_log {folder}/errors;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {block}
    }}
}}
"""
pytestmark = pytest.mark.slow


class Proxy(NamedTuple):
    base: str
    client: httpx.Client


def _nginx(folder: Path) -> str:
    """Returns the path of the installed nginx, or of one unpacked from Debian's package without installing it."""
    if found := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no nginx here, and no apt-get to download it with")
    got = subprocess.run(["apt-get", "download", "nginx"], cwd=folder, capture_output=True, text=True, timeout=120)
    packages = list(folder.glob("nginx_*.deb"))
    if not packages:
        pytest.skip(f"no nginx here, and it cannot be downloaded: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
    binary = folder / "usr" / "sbin" / "nginx"
    if subprocess.run([binary, "-v"], capture_output=True).returncode:
        pytest.skip("no nginx here, and Debian's does not run")
    return str(binary)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _nginx(tmp_path_factory.mktemp("nginx"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, binary: str) -> Iterator[tuple[int, FastAPI]]:
    made = app(tmp_path_factory.mktemp("server"))
    with live(made) as port:
        yield port, made


@pytest.fixture(scope="module", params=["1.1", "1.0"])
def proxy(
    request: pytest.FixtureRequest, server: tuple[int, FastAPI], binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder, port = tmp_path_factory.mktemp("conf"), free_port()
    (block,) = re.findall(r"^```nginx\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{server[0]}")
    if request.param == "1.0":  # this is nginx's default
        block = block.replace("proxy_http_version 1.1;", "")
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(CONF.format(folder=folder, port=port, block=block, user=user))
    running = subprocess.Popen([binary, "-c", folder / "conf", "-p", folder, "-e", folder / "errors"])
    try:
        base = f"http://127.0.0.1:{port}/studio"
        with httpx.Client(timeout=pace.seconds(60), trust_env=False) as client:
            pace.until(lambda: answers(client, base), 30)
            yield Proxy(base, client)
    finally:
        running.terminate()
        running.wait(20)


def answers(client: httpx.Client, base: str) -> bool:
    try:
        return client.get(f"{base}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def test_every_address_leads_back_through_the_proxy(proxy: Proxy, server: tuple[int, FastAPI]) -> None:
    base, client = proxy
    made = client.post(f"{base}/queue/fal-ai/cogvideox-5b", json={"prompt": "steps=1 bytes=3000000"}).json()
    assert made["status_url"].startswith(f"{base}/queue/")
    house = house_of(server[1])
    ended(house, house.context.jobs.page("fal", "", 1)[0])
    address = client.get(made["response_url"]).json()["video"]["url"]
    assert address.startswith(f"{base}/files/")
    whole = client.get(address)
    assert len(whole.content) == 3_000_000
    part = client.get(address, headers={"range": "bytes=-10"})
    assert (part.status_code, part.content) == (206, whole.content[-10:])
    assert client.get(address, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert client.head(address).headers["content-length"] == "3000000"


def test_the_docs(proxy: Proxy) -> None:
    base, client = proxy
    page = client.get(f"{base}/docs")
    links = re.findall(r"""(?:src=|href=|url: )["']([^"']+)["']""", page.text)
    assert len(links) == 4
    for link in links:
        assert client.get(httpx.URL(f"{base}/docs").join(link)).status_code == 200, link
    assert client.get(f"{base}/openapi.json").json()["servers"] == [{"url": "/studio"}]


@needs_browser
def test_a_browser_shows_the_docs(proxy: Proxy, tmp_path: Path) -> None:
    page, log = shown(f"{proxy.base}/docs", tmp_path / "profile")
    assert "/v1/videos" in page and "opblock" in page and ">/studio<" in page, page[-500:]
    assert "Content Security Policy" not in log


def test_streams_arrive_as_they_are_sent(proxy: Proxy) -> None:
    """The first event arrives long before the server produces the last one."""
    base, client = proxy
    slow = {"prompt": "steps=1000 sleep=1"}
    fal = client.post(f"{base}/queue/fal-ai/cogvideox-5b", json=slow).json()
    assert "IN_" in first(client, f"{fal['status_url']}/stream?logs=1")
    assert client.get(fal["status_url"]).json()["status"] != "COMPLETED"
    assert client.put(fal["cancel_url"]).status_code == 202
    made = client.post(f"{base}/v1/models/cuuupid/cogvideox-5b/predictions", json={"input": slow}).json()
    assert made["urls"]["stream"].startswith(f"{base}/v1/")
    assert "event: logs" in first(client, made["urls"]["stream"])
    assert client.get(made["urls"]["get"]).json()["status"] in ("starting", "processing")
    client.post(made["urls"]["cancel"])


def first(client: httpx.Client, address: str) -> str:
    with client.stream("GET", address) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return next(answer.iter_text())


def test_a_large_upload(proxy: Proxy) -> None:
    base, client = proxy
    data = os.urandom(2**20) * 24
    asked = {"file_name": "a.bin", "content_type": "application/octet-stream"}
    upload = client.post(f"{base}/storage/upload/initiate", json=asked).json()
    assert client.put(upload["upload_url"], content=data).status_code == 200
    assert client.get(upload["file_url"]).content == data
    chunked = client.post(f"{base}/storage/upload/initiate", json=asked).json()
    pieces = (data[at : at + 2**20] for at in range(0, len(data), 2**20))
    sent = client.put(chunked["upload_url"], content=pieces)
    assert sent.status_code == 200, sent.text
    assert len(client.get(chunked["file_url"]).content) == len(data)
    empty = client.post(f"{base}/storage/upload/initiate", json=asked).json()
    assert client.put(empty["upload_url"], content=b"").status_code == 400
