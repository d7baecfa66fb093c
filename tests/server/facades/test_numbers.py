"""Every numeric field of every façade refuses or bounds hostile numbers; none of them makes the server fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from server.facades.registry import FACADES
from tests.rigs.api_hostile import AS_JSON, AUTHORISED
from tests.rigs.api_judge import KEY, Asked, ask, flaw
from tests.rigs.api_tables import JSON, Call, Field, calls
from tests.rigs.facade_rig import Rig, facade
from tests.rigs.house import app, house_of

HUGE, DIGITS = str(10**400), "9" * 4301
TOKENS = (HUGE, f"-{HUGE}", DIGITS, "1e400", "NaN", "-0.0", str(2**63), "1e308")
TEXTS = ("١٢", "1_0", DIGITS, "1e400", "inf")
PARAMETERS = (*TOKENS, *TEXTS)
MARK = "\ue000"  # placeholder for a token in the generated JSON


@pytest.fixture(params=FACADES)
def rig(request: pytest.FixtureRequest) -> Iterator[tuple[str, Rig]]:
    with facade(request.param, keys=KEY) as made:
        yield request.param, made


def is_number(schema: dict[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", ())]
    return any(kind.get("type") in ("integer", "number") for kind in kinds)


def bodies(call: Call, field: Field) -> Iterator[bytes]:
    base = {one.name: one.examples[0] for one in call.top if one.required and one.where == "body" and one.examples}
    outer, _, member = field.name.partition(".")
    known = base.get(outer)
    value: Any = {**(known if isinstance(known, dict) else {}), member: MARK} if member else MARK
    text = json.dumps({**base, outer: value}, ensure_ascii=False)
    for token in TOKENS:
        yield text.replace(f'"{MARK}"', token).encode()
    for word in TEXTS:
        yield text.replace(MARK, word).encode()


def requests(call: Call) -> Iterator[Asked]:
    target = call.path.format_map(dict.fromkeys(("request_id", "key", "name", "ticket", "number"), "1") | call.places)
    base = {one.name: one.examples[0] for one in call.top if one.required and one.where == "body" and one.examples}
    plain = json.dumps(base).encode()
    for field in call.fields:
        if field.where == "body" and JSON in call.media and is_number(field.schema):
            for body in bodies(call, field):
                yield Asked(call.method, target.encode(), (AUTHORISED, AS_JSON), body, field.name)
        for value in PARAMETERS:
            if field.where == "query":
                odd = f"{target}?{field.name}={quote(value)}".encode()
                yield Asked(call.method, odd, (AUTHORISED, AS_JSON), plain, field.name)
            if field.where == "header":
                for said in (value, f"wait={value}", f"{value}s", f'{{"expiration_duration_seconds": {value}}}'):
                    header = (field.name.lower().encode(), said.encode())
                    yield Asked(call.method, target.encode(), (AUTHORISED, AS_JSON, header), plain, field.name)


def test_odd_numbers(rig: tuple[str, Rig]) -> None:
    vendor, made = rig
    found: dict[tuple[str, str], str] = {}
    asked = 0
    with asyncio.Runner() as runner:
        for call in calls(vendor, made.app.openapi()):
            if ("{" in call.path and not call.places) or call.path.endswith("/video-to-video"):  # inspects a clip
                continue
            for one in requests(call):
                asked += 1
                answer = runner.run(ask(made.app, one))
                if wrong := flaw(vendor, one, answer):
                    found.setdefault((call.name, one.what), f"{call.name}: {wrong}\n    {one}")
                elif answer.status >= 500:
                    found.setdefault((call.name, one.what), f"{call.name}: {answer.status}\n    {one}")
    assert asked > 20 and not found, "\n".join(list(found.values())[:10])


RANGES = (
    f"bytes=0-{DIGITS}",
    f"bytes={DIGITS}-",
    f"bytes=-{HUGE}",
    "bytes=-0",
    "bytes=1e3-",
    "bytes=0-0,1-1",
    "bytes=5-1",
)


def test_odd_ranges(tmp_path: Path) -> None:
    made = app(tmp_path)
    house = house_of(made)
    try:
        file = house.context.artifacts.put("a.mp4", "video/mp4", bytes(100))
        client = TestClient(made, raise_server_exceptions=False)
        for asked in RANGES:
            for more in ({}, {"if-range": DIGITS}, {"if-modified-since": HUGE}):
                answer = client.get(f"/files/{file.key}/a.mp4", headers={"range": asked, **more})
                assert answer.status_code in (200, 206, 400, 416), (asked, answer.status_code)
    finally:
        house.close()
