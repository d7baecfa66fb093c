"""The requests of one key take turns with the requests of other keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from server.limits import calls
from server.limits.calls import PER_KEY, Fair, in_turn

Served = list[str]


async def nothing(message: Any = None) -> None:
    pass


def served_by(act: Any) -> Any:
    """Returns an app that treats the path of a request as the caller's name, and awaits `act` when it is the request's
    turn."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with in_turn(scope, scope["path"], send) as sending:
            await act(scope["path"])
            await PlainTextResponse("done")(scope, receive, sending)

    return Fair(app)


def request(app: Any, caller: str) -> asyncio.Task[None]:
    return asyncio.create_task(app({"type": "http", "path": caller, "headers": []}, nothing, nothing))


def test_who_sends_hundreds_at_once_waits_for_himself_only() -> None:
    async def run() -> None:
        working, most, free = 0, 0, asyncio.Event()

        async def act(caller: str) -> None:
            nonlocal working, most
            if caller == "mallory":
                working += 1
                most = max(most, working)
                await free.wait()
                working -= 1

        app = served_by(act)
        hers = [request(app, "mallory") for _ in range(300)]
        await asyncio.sleep(0)
        async with asyncio.timeout(calls.SECONDS):
            await request(app, "bob")
        assert not any(one.done() for one in hers) and most == PER_KEY
        free.set()
        await asyncio.gather(*hers)
        assert not app.places._held and not app.places._waiting

    asyncio.run(run())


def test_what_waits_for_something_gives_its_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SECONDS", 0.01)

    async def run() -> None:
        begun, free = list[str](), asyncio.Event()

        async def act(caller: str) -> None:
            begun.append(caller)
            await free.wait()

        app = served_by(act)
        waiting = [request(app, "mallory") for _ in range(5 * PER_KEY)]
        async with asyncio.timeout(10):
            while len(begun) < len(waiting):
                await asyncio.sleep(0.01)
        waiting[0].cancel()
        free.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not app.places._held and not app.places._waiting

    asyncio.run(run())
