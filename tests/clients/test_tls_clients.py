"""Unmodified clients call an https server; only the certificates that they trust are set."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from cryptography import x509

from server.transport import tls
from tests.rigs import pace
from tests.rigs.clients.running import KEY, command, fetch, installed_packages, node, running_server, stand_in_server

PROMPT = "steps=3 sleep=0.01"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("https")


@pytest.fixture(scope="module")
def trusted(folder: Path) -> str:
    return str(folder / "data" / "tls" / "ca.pem")


@pytest.fixture(scope="module")
def port(folder: Path, trusted: str) -> Iterator[int]:
    with stand_in_server(folder, tls="true", trust=trusted) as address:
        yield int(address.rpartition(":")[2])


def environment(**more: str) -> dict[str, str]:
    """The environment without variables that set certificates, proxies or this server's settings."""
    strangers = ("SSL_CERT", "REQUESTS_CA", "NODE_EXTRA", "CURL_CA", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "COGVID")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(strangers)}
    return {**kept, "FAL_KEY": KEY, **more}


def run(program: list[str], **more: str) -> str:
    done = subprocess.run(program, env=environment(**more), capture_output=True, text=True, timeout=pace.seconds(120))
    assert done.returncode == 0, done.stderr
    return done.stdout


FAL = f"""
import json
import fal_client
done = fal_client.subscribe("fal-ai/cogvideox-5b", {{"prompt": "{PROMPT}"}})
ran = fal_client.run("fal-ai/cogvideox-5b", {{"prompt": "{PROMPT}", "seed": 7}})
print(json.dumps([done["video"]["url"], ran["video"]["url"], ran["seed"]]))
"""


def test_fals_client_with_nothing_but_variables(port: int, trusted: str) -> None:
    places = {"FAL_RUN_HOST": f"localhost:{port}/run", "FAL_QUEUE_RUN_HOST": f"localhost:{port}/queue"}
    *films, seed = json.loads(run([sys.executable, "-c", FAL], SSL_CERT_FILE=trusted, **places))
    assert seed == 7
    for film in films:
        assert film.startswith(f"https://localhost:{port}/")
        assert fetch(film, trusted).headers["content-type"] == "video/mp4"


# this code acts like a hosts file that maps each cloud's host name to the server, as if the server used port 443
HOSTS = """
import socket
looked_up = socket.getaddrinfo
def look_up(host, port, *args, **kwargs):
    return looked_up("127.0.0.1", PORT, *args, **kwargs)
socket.getaddrinfo = look_up
"""
UPLOAD = """
import fal_client, httpx
url = fal_client.upload(b"a picture", "image/png", "circle.png")
print(httpx.get(url).text, url)
"""


def test_fals_client_as_it_is_with_a_hosts_file(port: int, trusted: str) -> None:
    hosts = HOSTS.replace("PORT", str(port))
    *films, seed = json.loads(run([sys.executable, "-c", hosts + FAL], SSL_CERT_FILE=trusted))
    assert seed == 7
    assert all(re.match(r"https://(queue\.)?fal\.run/", film) for film in films)
    assert run([sys.executable, "-c", hosts + UPLOAD], SSL_CERT_FILE=trusted).startswith("a picture https://")


@pytest.mark.parametrize("host", tls.VENDOR_HOSTS)
def test_every_clouds_name_leads_here(port: int, trusted: str, host: str) -> None:
    script = (
        HOSTS.replace("PORT", str(port))
        + f"""
import urllib.request
print(urllib.request.urlopen("https://{host}/health/live").read().decode())
"""
    )
    assert json.loads(run([sys.executable, "-c", script], SSL_CERT_FILE=trusted)) == {"status": "alive"}


NODE = """
const answer = await fetch(process.argv[1]);
console.log(JSON.stringify(await answer.json()));
"""


def test_node(port: int, trusted: str) -> None:
    program = [node()[0], "--input-type=module", "--eval", NODE, f"https://localhost:{port}/health/live"]
    assert json.loads(run(program, NODE_EXTRA_CA_CERTS=trusted)) == {"status": "alive"}


REPLICATE = f"""
import json, replicate
client = replicate.Client(api_token="{KEY}", base_url="https://localhost:PORT")
client.poll_interval = 0.1
wanted = {{"prompt": "{PROMPT}"}}
outputs = [client.run("cuuupid/cogvideox-5b", input=wanted, wait=wait) for wait in (True, False)]
made = client.models.predictions.create("cuuupid/cogvideox-5b", wanted, wait=True)
print(json.dumps([made.output, *(output.url for output in outputs)]), *(len(output.read()) for output in outputs))
"""
REPLICATE_JS = f"""
import Replicate from "replicate";
const replicate = new Replicate({{ auth: "{KEY}", baseUrl: "https://localhost:PORT/v1" }});
const wanted = {{ input: {{ prompt: "{PROMPT}" }}, wait: {{ mode: "poll" }} }};
const output = await replicate.run("cuuupid/cogvideox-5b", wanted);
console.log(JSON.stringify([String(output.url())]), (await output.blob()).size);
"""


def test_replicates_clients_make_files_of_addresses(port: int, trusted: str, tmp_path: Path) -> None:
    """Over https, blocking and polling calls both return URLs; no data URIs are needed."""
    (tmp_path / "node_modules").symlink_to(installed_packages())
    (tmp_path / "program.mjs").write_text(REPLICATE_JS.replace("PORT", str(port)))
    for said in (
        run([sys.executable, "-c", REPLICATE.replace("PORT", str(port))], SSL_CERT_FILE=trusted),
        run([node()[0], str(tmp_path / "program.mjs")], NODE_EXTRA_CA_CERTS=trusted),
    ):
        urls, _, sizes = said.strip().rpartition("] ")
        assert all(url.startswith(f"https://localhost:{port}/files/") for url in json.loads(f"{urls}]"))
        assert set(sizes.split()) == {"1000"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_requests(port: int, trusted: str, host: str) -> None:
    url = f"https://{host}:{port}/v1/cog-video-5b-t2v?response=json"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            url, json={"prompt": PROMPT}, headers={"x-api-key": KEY}, verify=trusted, timeout=pace.seconds(60)
        ).json()
    assert answer["status"] == "COMPLETED"
    assert answer["output"].startswith(f"https://{host}:{port}/files/")


def test_who_does_not_trust_it_is_not_served(port: int) -> None:
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"https://127.0.0.1:{port}/health/live")
    with pytest.raises(requests.exceptions.ConnectionError):
        fetch(f"http://127.0.0.1:{port}/health/live")


def test_strict_clients_trust_it_too(port: int, trusted: str) -> None:
    context = ssl.create_default_context(cafile=trusted)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of newer Pythons
    with (
        socket.create_connection(("127.0.0.1", port), timeout=pace.seconds(10)) as plain_socket,
        context.wrap_socket(plain_socket, server_hostname="queue.fal.run") as wrapped,
    ):
        assert wrapped.version() in ("TLSv1.2", "TLSv1.3")


def test_who_trusts_it_trusts_it_after_a_restart(tmp_path: Path) -> None:
    trust = tmp_path / "trusted.pem"
    with stand_in_server(tmp_path, tls="true", trust=str(tmp_path / "data" / "tls" / "ca.pem")):
        trust.write_bytes((tmp_path / "data" / "tls" / "ca.pem").read_bytes())
    new = {"public_url": "https://video.example.org"}  # causes a new certificate
    with stand_in_server(tmp_path, tls="true", trust=str(trust), **new) as address:
        assert fetch(f"https://{address}/health/live", str(trust)).status_code == 200
    leaf = x509.load_pem_x509_certificate((tmp_path / "data" / "tls" / "server.pem").read_bytes())
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "video.example.org" in alternatives.get_values_for_type(x509.DNSName)


def test_what_the_banner_says_is_so(tmp_path: Path) -> None:
    place = tmp_path / "a folder"
    trust = str(place / "tls" / "ca.pem")
    with running_server(tmp_path, [*command(), "--tls"], data_dir=str(place), trust=trust) as address:
        said = (tmp_path / "server.log").read_text()
        assert f"answers on https://{address}" in said
        exported = [shlex.split(line, comments=True)[1] for line in said.splitlines() if "export " in line]
        given = dict(line.split("=", 1) for line in exported)
        assert given == dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), trust)
        assert f"FAL_RUN_HOST={address}/run FAL_QUEUE_RUN_HOST={address}/queue\n" in said
        url = f"https://{address}/health/live"
        for script in ("import httpx as client", "import requests as client"):
            program = [sys.executable, "-c", f"{script}; print(client.get({url!r}).text)"]
            assert json.loads(run(program, **given)) == {"status": "alive"}


def test_a_server_with_the_owners_certificate(tmp_path: Path) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = {"tls_cert": str(tmp_path / "chain.pem"), "tls_key": str(tmp_path / "key.pem")}
    with stand_in_server(tmp_path / "server", trust=str(tmp_path / "ca.pem"), **files) as address:
        assert fetch(f"https://{address}/health/live", str(tmp_path / "ca.pem")).json() == {"status": "alive"}
    assert not (tmp_path / "server" / "data" / "tls").exists()
