"""Bodies that are cheap to send and expensive to parse: forms with empty fields or false boundaries, JSON with long
numbers or escapes."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from tests.rigs.attacks.rig import Target, attacked

SIZE = 8 * 2**20
PART = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n'
URLENCODED = "application/x-www-form-urlencoded"
BODIES = {
    "false boundaries": ("multipart/form-data; boundary=b", PART + b"\r\n--bx" * (SIZE // 6) + b"\r\n--b--\r\n"),
    "empty fields": (URLENCODED, b"&" * SIZE),
    "escapes of a form": (URLENCODED, b"prompt=" + b"%41" * (SIZE // 3)),
    "long numbers": ("application/json", b"[" + b",".join([b"1" * 4300] * (40 * 2**20 // 4301)) + b"]"),
    "escapes of JSON": ("application/json", b'{"prompt":"' + b"\\n" * (20 * 2**20) + b'"}'),
}
UPLOADS = ("/v1/files", "/replicate/v1/files")
PATHS = ("/v1/videos", "/api/paas/v4/videos/generations", "/v1/cog-video-5b-t2v", *UPLOADS)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("attack")) as target:
        yield target


@pytest.mark.parametrize("name", BODIES)
def test_nobody_else_waits(target: Target, name: str) -> None:
    """Parsing such bodies once blocked the event loop for 60 seconds per 128 MiB, or took ten times a body's size in
    memory."""
    kind, body = BODIES[name]
    with target.bystander() as seen, target.as_attacker() as session:
        for path in PATHS if "application/json" not in kind else PATHS[:1]:
            answer = session.post(target.url + path, data=body, headers={"content-type": kind}, timeout=120)
            assert 400 <= answer.status_code < 500, (path, answer.status_code, answer.text[:200])
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


BOMBS = {
    "a thousand times as long": gzip.compress(bytes(256 * 2**20), 6),
    "of many small members": gzip.compress(b"") * 100_000,
    "of nothing": b"\x1f\x8b\x08" + bytes(7) + b"\0\0\0\xff\xff" * (8 * 2**20 // 5),
}


@pytest.mark.parametrize("name", BOMBS)
def test_nobody_waits_while_a_body_is_decompressed(target: Target, name: str) -> None:
    with target.bystander() as seen, target.as_attacker() as session:
        for path in PATHS[:2]:
            headers = {"content-type": "application/json", "content-encoding": "gzip"}
            answer = session.post(target.url + path, data=BOMBS[name], headers=headers, timeout=120)
            assert 400 <= answer.status_code < 500, (path, answer.status_code, answer.text[:200])
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "hex", "none-such"])
@pytest.mark.parametrize("path", PATHS)
def test_charsets(target: Target, path: str, charset: str) -> None:
    """Some codecs raise errors other than UnicodeDecodeError."""
    body = PART.replace(b"prompt", b"-zzzz99999999") + b"-zzzz99999999\xff\r\n--b--\r\n"
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    with target.as_attacker() as session:
        answer = session.post(target.url + path, data=body, headers={"content-type": kind}, timeout=60)
    assert 400 <= answer.status_code < 500, answer.text
