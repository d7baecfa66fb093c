"""Tests how much of the disk one key can fill, and that refused or aborted requests leave nothing behind."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests

from tests.rigs import pace
from tests.rigs.attacks.rig import ATTACKER, Target, attacked

pytestmark = pytest.mark.slow
MIB = 2**20
REFUSED_BODY = 18 * MIB
SENT_AT_MOST = 600 * MIB
PER_KEY = 64  # MiB
SUBMIT = "/queue/fal-ai/cogvideox-5b"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("disk"), max_uploads_per_key_mb=PER_KEY) as target:
        yield target


def data_of(target: Target) -> Path:
    return target.log.parent / "data"


def size_of(folder: Path) -> int:
    """Total bytes of the files in `folder`; files may disappear during the scan."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def being_written(target: Target) -> dict[str, int]:
    """Maps the path of each file that the server and its children have open for writing to its size in bytes. The
    search covers the data folder and the system's temporary folders, and includes deleted files."""
    processes = [psutil.Process(target.process.pid)]
    processes += processes[0].children(recursive=True)
    found = {}
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                path, flags = str(link.readlink()), (link.parent.parent / "fdinfo" / link.name).read_text()
                size = link.stat().st_size
            except OSError:
                continue
            writes = int(flags.split("flags:")[1].split()[0], 8) & 0o3
            if writes and path.startswith((str(data_of(target)), "/tmp", "/var/tmp")):
                found[path] = size
    return {path: size for path, size in found.items() if "jobs.db" not in path and path != str(target.log)}


def session() -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.headers["authorization"] = f"Bearer {ATTACKER}"
    return made


@dataclass
class Sent:
    """`taken` is the number of MiB sent before the connection closed, `largest` is the peak number of bytes on disk,
    and `elsewhere` has the files written outside the data folder."""

    status: int = 0
    taken: int = 0
    largest: int = 0
    elsewhere: set[str] = field(default_factory=set)


def send_chunked(target: Target, path: str, headers: dict[str, str], first: bytes = b"") -> Sent:
    """Sends chunks until the server closes the connection or SENT_AT_MOST is reached."""
    seen = Sent()
    host, _, port = target.address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=pace.seconds(60))
    connection.putrequest("POST", path)
    for name, value in {"transfer-encoding": "chunked", "authorization": f"Bearer {ATTACKER}", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    block, sent = bytes(256 * 2**10), 0
    try:
        for piece in itertools.chain([first] if first else [], itertools.repeat(block)):
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            sent += len(piece)
            if sent % (16 * MIB) < len(piece):
                files = being_written(target)
                seen.largest = max(seen.largest, sum(files.values()))
                seen.elsewhere |= {path for path in files if not path.startswith(str(data_of(target)))}
            if sent > SENT_AT_MOST:
                break
    except OSError:  # the connection is closed, but the response may still be readable
        pass
    with suppress(OSError, http.client.HTTPException):
        seen.status = connection.getresponse().status
    connection.close()
    seen.taken = sent // MIB
    return seen


def test_refused_submits_leave_next_to_nothing(target: Target) -> None:
    """Refused requests were once stored in full and never deleted."""
    nested = json.dumps({"prompt": "x", "seed": "no", "loras": [[["x" * 15_000] * 12] * 100]}).encode()
    long = json.dumps({"prompt": "x" * REFUSED_BODY}).encode()
    unknown = json.dumps({"seed": -1, "prompt": "a", "image_url": "y" * REFUSED_BODY}).encode()
    before = size_of(data_of(target))
    with target.bystander() as seen, session() as mallory:
        for body in (nested, nested, long, unknown, b"{" + b" " * REFUSED_BODY):
            answer = mallory.post(f"{target.url}{SUBMIT}", data=body, headers={"content-type": "application/json"})
            assert answer.status_code == 200, answer.text[:300]
            told = mallory.get(answer.json()["response_url"])
            assert told.status_code == 422 and len(told.content) < 64_000
    grown = size_of(data_of(target)) - before
    # the growth includes the files of the bystander's small jobs and the database's write-ahead log
    assert grown < 6 * MIB, f"{grown / MIB:.1f} MiB"
    assert seen.jobs and not seen.errors, seen  # delays while bodies are parsed are measured in test_holds.py
    target.assert_memory_returns()


def test_a_chunked_upload_is_cut_at_its_limit(target: Target) -> None:
    boundary = "b0undary"
    part = f'--{boundary}\r\ncontent-disposition: form-data; name="content"; filename="a.bin"\r\n\r\n'.encode()
    form = {"content-type": f"multipart/form-data; boundary={boundary}"}
    with target.bystander() as seen:
        sent = send_chunked(target, "/v1/files", form, first=part)
    # after responding, the server reads and drops more data for a while, so that the client sees the response
    assert sent.status in (413, 0) and sent.taken < SENT_AT_MOST // MIB, sent
    assert MIB < sent.largest < (PER_KEY + 8) * MIB and not sent.elsewhere, sent
    target.assert_unnoticed(seen)
    assert list((data_of(target) / "tmp").iterdir()) == list((data_of(target) / "uploads").iterdir()) == []


def test_many_uploads_of_one_key(target: Target) -> None:
    """The key sends two kinds of uploads: small files, and multipart uploads that it never completes."""
    codes = []
    with target.bystander() as seen, session() as mallory:
        for _ in range(10):
            begun = mallory.post(f"{target.url}/storage/upload/initiate-multipart", json={"file_name": "a.bin"}).json()
            codes.append(mallory.put(f"{begun['upload_url']}/1", data=bytes(16 * MIB)).status_code)
        taken = size_of(data_of(target) / "uploads") + size_of(data_of(target) / "artifacts")
        small = [mallory.post(f"{target.url}/files/upload", data=b"x").status_code for _ in range(20)]
    assert codes[0] == 200 and codes[-1] == 413 and taken <= (PER_KEY + 8) * MIB, (codes, taken)
    assert set(small) <= {200, 413}
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


def test_a_server_that_is_killed_in_an_upload_starts_clean(tmp_path: Path) -> None:
    with attacked(tmp_path) as target:
        host, _, port = target.address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=pace.seconds(30))
        connection.putrequest("POST", "/files/upload")
        connection.putheader("authorization", f"Bearer {ATTACKER}")
        connection.putheader("content-length", str(100 * MIB))
        connection.endheaders()
        connection.send(bytes(8 * MIB))
        until = time.monotonic() + pace.seconds(20)
        while not any((data_of(target) / "uploads").iterdir()):
            assert time.monotonic() < until
            time.sleep(0.05)
        target.process.kill()
        target.process.wait()
        connection.close()
        assert any((data_of(target) / "uploads").iterdir())
    with attacked(tmp_path) as target:
        assert not any((data_of(target) / "uploads").iterdir())
        target.assert_stops()
