"""Image hosts send responses that never end or that are expensive to read."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.rigs.attacks.hosts import Answer, host
from tests.rigs.attacks.rig import Target, attacked

HOSTS = 8
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
FLOODS = {
    "answers before the answer": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "a byte in each chunk": (CHUNKED, b"1\r\na\r\n" * 8000),
    "words beside chunks": (CHUNKED, b"1;" + b"a" * 8000 + b"\r\na\r\n"),
    "empty lines": (b"", b"\r\n" * 30_000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 5000),
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("attack"), allow_private_urls="true") as target:
        yield target


def flood(head: bytes, more: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:
            writer.write(more)
            await writer.drain()

    return answer


def bomb() -> Answer:
    """256 MiB of zeros, compressed to about 256 KiB."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(made.compress(bytes(2**20)) for _ in range(256)) + made.flush()
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + packed)
        await writer.drain()

    return answer


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FLOODS, "a gzip bomb"])
def test_nobody_else_waits(target: Target, name: str) -> None:
    """Reading these responses once blocked the event loop for up to 30 seconds."""
    with host(bomb() if name == "a gzip bomb" else flood(*FLOODS[name])) as port:

        def send(number: int) -> int:
            body = {
                "prompt": "steps=1 sleep=0",
                "input_reference": f"http://127.0.0.1:{port}/{number}.png",
            }
            with target.as_attacker() as session:
                return session.post(f"{target.url}/v1/videos", json=body, timeout=120).status_code

        with target.bystander() as seen, ThreadPoolExecutor(HOSTS) as senders:
            codes = set(senders.map(send, range(HOSTS)))
    assert codes == {400}
    target.assert_unnoticed(seen)
    target.assert_memory_returns()
