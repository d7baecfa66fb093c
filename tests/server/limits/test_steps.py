"""The server processes one large text per key at a time, in short steps."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
import time
from collections.abc import Callable

import pytest

from server.facades.kit.json_bodies import parsed
from server.limits import steps
from server.limits.steps import LARGE, STEP, in_turn
from server.media.data_uris import ESCAPES, encoded, from_base64, from_text, unescaped
from server.media.outbound import DownloadFailed, TooLarge

MIB = 2**20


def test_keys_take_turns_and_small_texts_go_ahead() -> None:
    running, most = set[str](), list[int]()
    free, bob_began = threading.Event(), threading.Event()

    def work(name: str) -> None:
        running.add(name)
        most.append(len([one for one in running if one.startswith("mallory")]))
        if name == "bob":
            bob_began.set()
        if name.startswith("mallory"):
            free.wait(60)
        running.discard(name)

    async def run() -> None:
        hers = [asyncio.create_task(in_turn("mallory", LARGE, work, f"mallory {n}")) for n in range(5)]
        await asyncio.sleep(0)
        his = asyncio.create_task(in_turn("bob", LARGE, work, "bob"))
        await in_turn("mallory", LARGE - 1, work, "small")  # this smaller text is done before the large texts
        assert await asyncio.to_thread(bob_began.wait, 60)
        assert not any(task.done() for task in hers)
        free.set()
        await asyncio.gather(*hers, his)

    asyncio.run(run())
    assert max(most) == 1
    assert not steps._turns._held and not steps._turns._waiting


def test_base64_is_the_same_however_it_is_cut() -> None:
    chance = random.Random(0)
    for size in (0, 1, 2, 3, 4, 100, STEP - 1, STEP, STEP + 1, 3 * STEP + 2):
        data = chance.randbytes(size)
        text = base64.b64encode(data).decode()
        spaced = "".join(f"{text[at : at + 76]}\r\n" for at in range(0, len(text), 76))
        for written in (text, text.rstrip("="), spaced, text.translate({43: "-", 47: "_"}), f"{text}==\n="):
            assert b"".join(from_base64(encoded(written), MIB)) == data
            assert b"".join(from_text(f"data:a/b;base64,{written}", MIB)) == data
        escaped = "".join(f"%{byte:02x}" for byte in data[: ESCAPES // 2])
        for shift in range(4):  # each shift puts the boundary between two steps at another place in an escape
            assert b"".join(unescaped("x" * (STEP - 2 + shift) + escaped))[STEP - 2 + shift :] == data[: ESCAPES // 2]


@pytest.mark.parametrize("wrong", ["A", "=AAA", "AA=A", "AAAA=AAAA", "A" * STEP + "=" + "A" * STEP, "A" * STEP + "é"])
def test_what_is_no_base64_is_refused(wrong: str) -> None:
    with pytest.raises(DownloadFailed, match="nor base64"):
        list(from_base64(encoded(wrong), MIB))


def test_no_more_is_decoded_than_is_wanted() -> None:
    text = base64.b64encode(bytes(2 * MIB)).decode()
    for pieces in (from_base64(encoded(text), MIB), from_text(f"data:;base64,{text}", MIB)):
        with pytest.raises(TooLarge):
            list(pieces)
    with pytest.raises(TooLarge):
        from_text("data:," + "A" * 5 * MIB, MIB)
    for uri, why in (("data:," + "%41" * (ESCAPES + 1), "percent escapes"), ("data:" + "A" * MIB, "no comma")):
        with pytest.raises(DownloadFailed, match=why):
            list(from_text(uri, 64 * MIB))


LARGE_TEXTS: dict[str, Callable[[], bytes]] = {
    "base64": lambda: b"A" * 48 * MIB,
    "slashes that PHP escapes": lambda: (b"A" * 63 + rb"\/") * 700_000,
    "white space": lambda: rb"A\n" * 3_900_000,
    "not ASCII": lambda: "猫".encode() * 8 * MIB,
}


@pytest.mark.parametrize("name", LARGE_TEXTS)
def test_the_event_loop_goes_on_meanwhile(name: str) -> None:
    """Compares the CPU time of the event loop's longest pass with the CPU time of the whole parsing."""
    body = b'{"a": "%s", "b": 1}' % LARGE_TEXTS[name]()

    async def run() -> tuple[float, float]:
        begun, longest = time.process_time(), 0.0
        work = asyncio.create_task(parsed(body))
        while not work.done():
            before = time.process_time()
            await asyncio.sleep(0)
            longest = max(longest, time.process_time() - before)
        (await work)["a"]
        return longest, time.process_time() - begun

    longest, whole = asyncio.run(run())
    assert longest < whole / 4
