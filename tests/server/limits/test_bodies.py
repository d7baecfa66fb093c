"""All bodies in memory share a limit. In a body for ModelsLab, the server finds the key before it reads the rest."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from server.auth import Unauthorized
from server.errors import TooManyBodies
from server.facades.kit.body import read_body
from server.facades.kit.json_bodies import BadBody, parsed
from server.facades.modelslab import keyed
from server.facades.modelslab.keyed import KeyScanner
from server.limits import bodies
from server.limits.bodies import MAX_BODY, SCOPE_KEY, SHORT, Bodies, BodyTooLarge, Counted, Share

MIB = 2**20
LONG = "A" * MIB


def request_of(pieces: list[bytes], share: Share | None = None, length: int | None = None) -> Request:
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    size = b"%d" % (sum(map(len, pieces)) if length is None else length)
    headers = [(b"transfer-encoding", b"chunked")] if length == -1 else [(b"content-length", size)]
    scope = {"type": "http", "headers": headers, "client": ("192.0.2.1", 1), SCOPE_KEY: share}
    request = Request(scope, receive)
    request.state.left = left
    return request


def test_who_has_no_room_waits_for_it() -> None:
    async def run() -> list[str]:
        shared, order = Bodies(100, 60), list[str]()

        async def work(caller: str, size: int) -> None:
            await shared.take(caller, size)
            order.append(f"{caller} {size}")

        await work("a", 60)
        waiting = [asyncio.create_task(work(*one)) for one in (("a", 10), ("b", 50), ("c", 40))]
        await asyncio.sleep(0.01)
        assert order == ["a 60", "c 40"]
        shared.give_back("c", 40)
        await asyncio.sleep(0.01)
        assert len(order) == 2
        shared.give_back("a", 60)
        await asyncio.gather(*waiting)
        return order

    assert asyncio.run(run()) == ["a 60", "c 40", "a 10", "b 50"]


def test_who_waits_too_long_is_refused_and_who_gives_up_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "WAIT_SECONDS", 0.05)

    async def run() -> None:
        shared = Bodies(100, 60)
        await shared.take("a", 60)
        with pytest.raises(TooManyBodies, match="send the request again later"):
            await shared.take("a", 1)
        with pytest.raises(TooManyBodies):
            shared.take_now("b", 50)
        gone = asyncio.create_task(shared.take("a", 60))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        shared.give_back("a", 60)
        await shared.take("b", 60)
        shared.take_now("a", 40)

    asyncio.run(run())


def test_a_body_is_counted_until_its_request_is_answered() -> None:
    async def run() -> None:
        shared = Bodies(4 * MIB, 3 * MIB)
        held: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            request = request_of([bytes(MIB)] * 2, scope[SCOPE_KEY])
            request.state.owner = "mallory"
            assert len(await read_body(request)) == 2 * MIB
            held.append(shared._held["mallory"])

        await Counted(app, shared)({"type": "http"}, None, None)  # type: ignore[arg-type]
        assert held == [2 * MIB] and not shared._held

    asyncio.run(run())


def test_a_body_without_a_length_is_counted_as_it_comes() -> None:
    async def run() -> None:
        share = Share(Bodies(20 * MIB, 20 * MIB))
        assert len(await read_body(request_of([bytes(MIB)] * 15, share, -1))) == 15 * MIB
        share.give_back()
        request = request_of([bytes(MIB)] * 100, share, -1)
        with pytest.raises(TooManyBodies):
            await read_body(request)
        assert len(request.state.left) > 80

    asyncio.run(run())


@pytest.mark.parametrize("length", [MAX_BODY + 1, 10**30])
def test_a_body_that_says_it_is_too_long_is_not_read(length: int) -> None:
    request = request_of([b"a"], None, length)
    with pytest.raises(BodyTooLarge):
        asyncio.run(read_body(request))
    assert request.state.left


def test_long_json_is_parsed_like_short() -> None:
    body = json.dumps({"a": LONG * 2, "b": 1}).encode()
    assert asyncio.run(parsed(body)) == json.loads(body)
    with pytest.raises(BadBody):
        asyncio.run(parsed(body[:-1]))


FOUND = {
    "first": {"key": "id:secret", "init_image": "a,b"},
    "last": {"init_image": "data:image/png;base64,AAAA", "prompt": 'say "key": {[', "key": "id:secret"},
    "behind others of the name": {"meta": {"key": "no"}, "list": [{"key": "no"}, "key", ":"], "key": "id:secret"},
    "with escapes": {"a\\": "\\", "b": 'x\\"key\\":\\"no', "key": "id:secret"},
    "not ASCII": {"prompt": "кот 猫 🐈", "key": "id:secret"},
    "as a value": {"a": "key", "b": "no", "key": "id:secret"},
}
ABSENT: list[Any] = [{}, [], ["key", "no"], "key", {"key": 1}, {"key": None}, {"key": {"key": "no"}}, {"a": "key"}, 5]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("compact", [True, False])
def test_the_key_is_found_however_the_body_is_cut(size: int, compact: bool) -> None:
    for name, fields in FOUND.items():
        for ascii_only in (True, False):
            text = json.dumps(fields, separators=(",", ":") if compact else (" , ", " : "), ensure_ascii=ascii_only)
            assert scanned(text.encode(), size).key == "id:secret", name
    for fields in ABSENT:
        assert scanned(json.dumps(fields).encode(), size).key is None, fields
    assert scanned(rb'{"\u006bey": "id:\u0073ecret"}', size).key == "id:secret"


def scanned(data: bytes, size: int) -> KeyScanner:
    scanner = KeyScanner()
    for n in range(0, len(data), size):
        scanner.feed(data[n : n + size])
    return scanner


def test_the_key_of_random_bodies_is_the_parsers() -> None:
    chance = random.Random(0)

    def value(depth: int) -> Any:
        kinds: list[Callable[[], Any]] = [lambda: "".join(chance.choices('key":,{}[]\\/\n é', k=6)), lambda: 1.5]
        if depth:
            kinds += [lambda: [value(depth - 1) for _ in range(3)], lambda: fields(depth - 1)]
        return chance.choice(kinds)()

    def fields(depth: int) -> dict[str, Any]:
        return {chance.choice(["key", "a", 'b"', "c\\"]): value(depth) for _ in range(4)}

    for _ in range(2000):
        body = fields(3)
        wanted = body.get("key")
        found = scanned(json.dumps(body).encode(), chance.randint(1, 20)).key
        assert found == (wanted if isinstance(wanted, str) else None), body


def test_a_body_of_nothing_but_values_is_not_scanned_to_its_end() -> None:
    with pytest.raises(BadBody, match="100000 values"):
        scanned(b"[" * 10 * MIB, 65536)


def identify(key: str | None) -> str:
    if key != "id:secret":
        raise Unauthorized("missing" if key is None else "unknown")
    return "owner"


async def read(request: Request, folder: Path, strangers: Bodies | None = None) -> tuple[bytes, str | None]:
    return await keyed.read(request, strangers or Bodies(keyed.STRANGERS, MAX_BODY), folder, identify)


def pieces_of(fields: Any) -> list[bytes]:
    data = json.dumps(fields).encode()
    return [data[n : n + SHORT] for n in range(0, len(data), SHORT)]


@pytest.mark.parametrize("length", [None, -1])
@pytest.mark.parametrize("fields", [{"key": "id:secret", "a": LONG}, {"a": LONG, "key": "id:secret"}])
def test_a_body_with_a_good_key_is_read_wherever_that_is(tmp_path: Path, fields: Any, length: int | None) -> None:
    pieces = pieces_of(fields)
    strangers = Bodies(keyed.STRANGERS, MAX_BODY)
    share = Share(Bodies(4 * MIB, 4 * MIB) if length is None else Bodies(2**30, 2**30))
    assert asyncio.run(read(request_of(pieces, share, length), tmp_path, strangers)) == (b"".join(pieces), "owner")
    assert share._taken["owner"] and not strangers._held and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("fields", "unread"),
    [({"key": "wrong", "a": LONG}, True), ({"a": LONG, "key": "wrong"}, False), ({"a": LONG}, False)],
)
def test_a_body_without_a_good_key_is_refused_as_soon_as_that_is_known(
    tmp_path: Path, fields: Any, unread: bool
) -> None:
    request, strangers = request_of(pieces_of(fields)), Bodies(keyed.STRANGERS, MAX_BODY)
    with pytest.raises(Unauthorized):
        asyncio.run(read(request, tmp_path, strangers))
    assert (len(request.state.left) >= 15) is unread and not strangers._held


def test_a_short_body_is_only_read(tmp_path: Path) -> None:
    assert asyncio.run(read(request_of([b"{"]), tmp_path)) == (b"{", None)
    assert asyncio.run(read(request_of([b"{", b"}"], None, -1), tmp_path)) == (b"{}", None)


def test_a_stranger_has_one_large_body_at_a_time_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "SECONDS", 0.2)
    monkeypatch.setattr(bodies, "WAIT_SECONDS", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def run() -> None:
        strangers = Bodies(keyed.STRANGERS, MAX_BODY)
        first = request_of([b""], None, MAX_BODY)
        first.stream = slow  # type: ignore[method-assign]
        reading = asyncio.create_task(read(first, tmp_path, strangers))
        await asyncio.sleep(0.01)
        with pytest.raises(TooManyBodies):
            await read(request_of([b"{"], None, MAX_BODY), tmp_path, strangers)
        with pytest.raises(Exception, match="as the first field"):
            await reading

    asyncio.run(run())
