"""Fuzzing: a façade answers every request in its vendor's shape and never fails.

Schemathesis generates valid and invalid requests from the OpenAPI document, and the test adds a few mutants of each
request, which differ from it in one place. Other requests come from tests/rigs/api_hostile.py, because no schema
produces them. Every run sends the same mutants. The façade works on the real job table, files and intake.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from starlette.testclient import TestClient

from server.facades import routes
from server.facades.registry import FACADES
from server.media.inspectors import Inspectors
from tests.rigs import api_hostile, house
from tests.rigs.api_judge import KEY, Answer, Asked, ask, flaw
from tests.rigs.api_mutants import mutants
from tests.rigs.api_scenes import SCENES, Sender
from tests.rigs.api_tables import calls
from tests.rigs.facade_rig import Rig, facade, square

GENERATED = int(os.environ.get("FUZZ_REQUESTS", "0"))  # per façade
ROUNDS = 20
MUTANTS = 3  # per generated request: generating a request takes three times as long as answering it
BASE = "http://here:8000"
SHOWN = 12  # kinds of findings that a failing test shows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # starlette leaves the file of a truncated part open until the file is garbage-collected, which happens at once
    pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning"),
    pytest.mark.skipif(not GENERATED, reason="make fuzz runs it, with FUZZ_REQUESTS"),
]


@dataclass
class Trial:
    """Sends requests, and keeps the first wrong answer of each kind."""

    name: str
    rig: Rig
    runner: asyncio.Runner
    random: Random = field(default_factory=lambda: Random(0))
    asked: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    found: dict[tuple[str, str], str] = field(default_factory=dict)

    def put(self, label: str, asked: Asked) -> None:
        answer = self.runner.run(ask(self.rig.app, asked))
        self.asked += 1
        self.codes[answer.status] += 1
        if wrong := flaw(self.name, asked, answer):
            self.found.setdefault((label, wrong[:60]), f"{self.name}, {label}: {wrong}\n    {asked}")

    def verdict(self) -> str:
        kinds = list(self.found.values())
        more = f"\n… and {len(kinds) - SHOWN} more kinds" if len(kinds) > SHOWN else ""
        return "\n".join(kinds[:SHOWN]) + more


def remember(inspectors: Inspectors) -> None:
    """Inspects the same bytes only once, because an inspection takes a process and many requests send the same clip."""
    check, answers = inspectors._asked, dict[str, dict[str, Any]]()

    async def once(task: dict[str, Any]) -> dict[str, Any]:
        content = hashlib.sha256(Path(task["path"]).read_bytes()).hexdigest()
        key = json.dumps({**task, "path": content}, sort_keys=True)
        if key not in answers:
            answers[key] = await check(task)
        return answers[key]

    inspectors._asked = once  # type: ignore[method-assign]


@pytest.fixture(params=FACADES)
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    with facade(request.param, keys=KEY, film=square(), rife=True) as rig, asyncio.Runner() as runner:
        remember(rig.context.inspectors)
        yield Trial(request.param, rig, runner)


def scenery(trial: Trial, call: str) -> dict[str, object]:
    """Returns values for the call's path parameters which name something that exists."""
    if (make := SCENES.get((trial.name, call))) is None:
        return {}
    client = TestClient(trial.rig.app, base_url=BASE)
    places = make(Sender(client, KEY, trial.rig)).places
    trial.rig.release()
    return places


def names_in(path: str) -> dict[str, object]:
    return dict.fromkeys(re.findall(r"{(\w+)}", path), "nothing")


def takes_something(operation: APIOperation) -> bool:
    return bool(operation.body) or bool(operation.query) or bool(operation.headers)


def run_some(
    trial: Trial, operation: APIOperation, mode: GenerationMode, places: object, number: int, count: int
) -> None:
    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode, path_parameters=dict(places) or None))
    def put(case: Case) -> None:
        asked = as_asked(case, mode.name.lower())
        trial.put(operation.label, asked)
        for mutant in mutants(asked, trial.random, MUTANTS):
            trial.put(operation.label, mutant)

    try:
        put()
    except Unsatisfiable:  # the schema allows no more requests, or no invalid request
        return


def as_asked(case: Case, what: str) -> Asked:
    parts = case.as_transport_kwargs(base_url=BASE)
    names = ("method", "url", "headers", "params", "data", "json", "files", "cookies")
    request = requests.Request(**{name: parts[name] for name in names if name in parts})
    prepared = request.prepare()
    headers = [(name.lower().encode("latin-1"), _bytes(value)) for name, value in prepared.headers.items()]
    body = prepared.body if isinstance(prepared.body, bytes) else (prepared.body or "").encode("utf-8", "surrogatepass")
    target = (prepared.url or BASE).removeprefix(BASE).encode("ascii")
    return Asked(case.method, target, (*headers, (b"x-api-key", KEY.encode())), body, what)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")


def test_what_the_schema_describes_and_what_it_forbids(trial: Trial) -> None:
    schema = schemathesis.openapi.from_dict(trial.rig.app.openapi())
    operations = [found.ok() for found in schema.get_all_operations()]
    strategies = []
    for operation in operations:
        modes = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * takes_something(operation)
        known = scenery(trial, operation.label)
        strategies += [(operation, mode, places) for mode in modes for places in ([{}, known] if known else [{}])]
    for number in range(ROUNDS):
        left = GENERATED - trial.asked
        if left <= 0:
            break
        for operation, mode, places in strategies:
            run_some(trial, operation, mode, places, number, 1 + left // len(strategies) // (1 + MUTANTS))
    assert trial.asked >= GENERATED
    assert not (verdict := trial.verdict()), verdict
    assert trial.codes[200] + trial.codes[201] > GENERATED / 50, f"hardly any request was valid: {trial.codes}"


def test_what_no_schema_brings_about(trial: Trial) -> None:
    document = trial.rig.app.openapi()
    for call in calls(trial.name, document):
        for asked in api_hostile.requests(call, {**names_in(call.path), **call.places, **scenery(trial, call.name)}):
            trial.put(call.name, asked)
    for path in document["paths"]:
        known: dict[str, object] = {}
        for method in document["paths"][path]:
            known |= scenery(trial, f"{method.upper()} {path}")
        methods = [method.upper() for method in document["paths"][path]]
        for asked in api_hostile.around(path, {**names_in(path), **known}, methods):
            trial.put(path, asked)
    for prefix in routes.PREFIXES[trial.name]:
        if prefix.startswith("/"):
            for asked in api_hostile.around(prefix, {}):
                trial.put(prefix, asked)
    assert not (verdict := trial.verdict()), verdict


@pytest.mark.parametrize("name", FACADES)
def test_what_is_no_answer_of_the_vendors(name: str) -> None:
    """The checker reports FastAPI's own errors, a web page, a traceback and an answer that contains the key."""
    asked, kind = Asked("GET", b"/"), {"content-type": "application/json"}
    assert flaw(name, asked, Answer(404, kind, b'{"detail": "Not Found"}'))
    assert flaw(name, asked, Answer(422, kind, b'{"detail": [{"loc": ["body"], "msg": "no"}]}'))
    assert flaw(name, asked, Answer(400, kind, b'{"error": {}}'))
    assert flaw(name, asked, Answer(400, kind, b"[]"))
    assert flaw(name, asked, Answer(400, kind, b'{"error": '))
    assert flaw(name, asked, Answer(500, {"content-type": "text/plain"}, b"Internal Server Error"))
    assert flaw(name, asked, Answer(405, {"content-type": "text/plain"}, b"Method Not Allowed"))
    assert flaw(name, asked, Answer(400, {"content-type": "text/html"}, b"<html>"))
    assert flaw(name, asked, Answer(200, {"content-type": "text/plain"}, b"Traceback (most recent call last):"))
    assert flaw(name, asked, Answer(200, kind, f'{{"key": "{KEY}"}}'.encode()))
    assert flaw(name, asked, Answer(200, kind, b'{"seed": NaN}'))


def test_addresses_that_belong_to_several(tmp_path: Path) -> None:
    """The test sends odd requests to URLs that two vendors share and to the server's own URLs; none may fail."""
    app = house.app(tmp_path, api_keys=KEY)
    try:
        paths = ("/", "/health", "/v1", "/v1/models", "/v1/models/{a}", "/v1/files", "/v1/files/{a}", "/files/{a}/{b}")
        bodies = [body for _, body in api_hostile.forms(["content", "file", "purpose"])] + list(
            api_hostile.BODIES.values()
        )
        odd = [asked for path in paths for asked in api_hostile.around(path, names_in(path))]
        odd += [
            Asked("POST", b"/v1/files", (api_hostile.AUTHORISED, kind), body, "upload")
            for kind in (api_hostile.AS_FORM, api_hostile.AS_JSON)
            for body in bodies
        ]
        with asyncio.Runner() as runner:
            for asked in odd:
                answer = runner.run(ask(app, asked))
                assert answer.status < 500 and not answer.raised, f"{answer.status} {answer.raised} {asked}"
                assert b"Traceback" not in answer.body, str(asked)
    finally:
        house.house_of(app).close()
