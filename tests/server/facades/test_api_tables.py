"""The tables in docs/apis list every field of the façades, and each field behaves as its row says.

For each field, the test sends three requests. The first two have the first example of the field's schema, and the third
has the second example. If a value is the same after the first two requests and different after the third request, it is
an effect of the field. The test compares the job, the answer, the content of the URLs in the answer, and the webhook.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from server.facades.registry import FACADES
from tests.rigs.api_effects import Values, effect, leaves
from tests.rigs.api_scenes import TOLD_AGAIN, UNSHOWN, Scene, Sender
from tests.rigs.api_tables import DOCS, Call, Field, Row, calls, tables
from tests.rigs.facade_rig import Clock, Rig, facade, square

IN_SCENES = ("after", "ids")  # the values of these fields are ids from a scene
WORDS = ("honoured", "mapped", "ignored", "refused")
NOW = 1_800_000_000.0
CLOCK = Clock(NOW)


def document(name: str) -> dict[str, Any]:
    with facade(name) as rig:
        return rig.app.openapi()


CALLS = [call for name in FACADES for call in calls(name, document(name))]
TABLES = {name: tables(name) if (DOCS / f"{name}.md").exists() else {} for name in FACADES}
ROWS = [(call, row) for call in CALLS for row in TABLES[call.vendor].get(call.name, [])]


@pytest.fixture
def idle_inspectors() -> None:
    """Overrides the shared fixture, because the rig stops its inspectors."""


def call_id(value: Any) -> str | None:
    if isinstance(value, Call):
        return f"{value.vendor}: {value.name}"
    return value.field if isinstance(value, Row) else None


# the tables


@pytest.mark.parametrize("name", FACADES)
def test_every_call_that_takes_something_has_a_table(name: str) -> None:
    assert (DOCS / f"{name}.md").exists(), f"{name}: docs/apis/{name}.md is missing"
    wanted = {call.name for call in CALLS if call.vendor == name}
    found = set(TABLES[name])
    assert wanted, f"{name}: no call in its OpenAPI document takes a body, a query or headers"
    assert not wanted - found, f"docs/apis/{name}.md lacks headings: {sorted(wanted - found)}"
    assert not found - wanted, f"docs/apis/{name}.md has headings of calls that take nothing: {sorted(found - wanted)}"


@pytest.mark.parametrize("call", CALLS, ids=call_id)
def test_a_table_has_every_field_once(call: Call) -> None:
    rows = TABLES[call.vendor].get(call.name, [])
    names = [row.field for row in rows]
    where = f"docs/apis/{call.vendor}.md, {call.name}"
    assert len(set(names)) == len(names), f"{where}: listed twice: {[n for n in names if names.count(n) > 1]}"
    lacking = {field.name for field in call.top} - set(names)
    unknown = {name for name in names if "[" not in name} - {field.name for field in call.fields}
    assert not lacking, f"{where}: no rows for {sorted(lacking)}"
    assert not unknown, f"{where}: rows for fields that the schema lacks: {sorted(unknown)}"
    for row in rows:
        assert row.word in WORDS, f"{where}, {row.field}: {row.word!r} is not one of {WORDS}"
        if row.word != "honoured":
            assert row.reason or where.endswith("/sync"), f"{where}, {row.field}: {row.word}, but without a reason"


@pytest.mark.parametrize("call", CALLS, ids=call_id)
def test_every_field_has_two_examples(call: Call) -> None:
    told = {row.field for row in TABLES[call.vendor].get(call.name, [])}
    for field in call.fields:
        if "." in field.name and field.name not in told:
            continue
        if field.name in IN_SCENES or (call.vendor, field.name) in UNSHOWN:
            continue
        where = f"{call.vendor}, {call.name}"
        different = {json.dumps(example) for example in field.examples}
        assert len(different) >= 2, f"{where}: {field.name} lacks two different examples in its schema"


# the behaviour


@pytest.fixture(scope="module")
def rigs() -> Iterator[Callable[[str], Rig]]:
    with ExitStack() as there:

        @cache
        def rig(name: str) -> Rig:
            keys = [f"k{number}.secret" for number in range(1000)]
            found = there.enter_context(facade(name, keys=",".join(keys), clock=CLOCK, film=square(), rife=True))
            found.keys = iter(keys)
            found.portal = there.enter_context(start_blocking_portal())
            there.callback(found.portal.call, found.context.inspectors.close)
            return found

        yield rig


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the clock, because different times are not an effect of a field."""
    CLOCK.now = NOW
    monkeypatch.setattr(time, "time", CLOCK)


@pytest.mark.parametrize(("call", "row"), ROWS, ids=call_id)
def test_a_field_does_what_the_table_says(rigs: Callable[[str], Rig], call: Call, row: Row) -> None:
    where = f"{call.vendor}, {call.name}, {row.field}"
    if (call.vendor, row.field) in UNSHOWN or "[" in row.field:
        return
    field = call.field(row.field)
    scenes: list[Scene] = []
    asked: list[Any] = []

    def with_example(number: int) -> Callable[[Sender, Scene], Values]:
        def choose(sender: Sender, scene: Scene) -> Values:
            scenes.append(scene)
            chosen = values(call, field, number, sender, scene)
            asked.append(chosen[field])
            return chosen

        return choose

    status, first = effect(rigs(call.vendor), call, field, with_example(0))
    _, again = effect(rigs(call.vendor), call, field, with_example(0))
    status_other, other = effect(rigs(call.vendor), call, field, with_example(1))
    if row.word == "refused":
        codes = [int(value) for place, value in other.items() if place.endswith(".status") and value.isdecimal()]
        refused = any(400 <= code < 500 for code in codes)
        assert refused, f"{where}: documented as refused, but the second example is accepted"
        return
    assert status < 400, f"{where}: the first example is refused, so the test shows nothing: {said(first)}"
    if not scenes[0].refuses and field.name != "key":
        assert status_other < 400, f"{where}: the second example is refused, so the test shows nothing: {said(other)}"
    passing = {place for place in first.keys() | again.keys() if first.get(place) != again.get(place)}
    if any(place.startswith("job ") for place in first) and (call.vendor, field.name) not in TOLD_AGAIN:
        told = {place for place, said in first.items() if tells_again(place, said, field, asked[0])}
        passing |= told & {place for place, said in other.items() if tells_again(place, said, field, asked[2])}
    changes = {
        place: (first.get(place), other.get(place))
        for place in (first.keys() | other.keys()) - passing
        if first.get(place) != other.get(place)
    }
    if row.word == "ignored":
        assert not changes, f"{where}: documented as ignored, but changes {dict(list(changes.items())[:5])}"
    else:
        assert changes, f"{where}: documented as {row.word}, but both examples have the same effect"


def tells_again(place: str, said: str, field: Field, asked: Any) -> bool:
    """Returns whether the value in the answer only repeats the request, because a repetition is not an effect."""
    name = field.name.rpartition(".")[2]
    return not place.startswith("job ") and name in place.split(".")[1:] and _plain(said) in map(_plain, leaves(asked))


def _plain(leaf: Any) -> Any:
    """Normalises a value, because vendors write numbers and booleans in several forms."""
    text = str(leaf[1] if isinstance(leaf, tuple) else leaf).strip("'")
    try:
        return float(text)
    except ValueError:
        return {"True": "yes", "False": "no"}.get(text, text)


def values(call: Call, field: Field, number: int, sender: Sender, scene: Scene) -> Values:
    """Returns values for the required fields, and the example with this number for `field`."""
    parent = field.name.partition(".")[0]
    needed = {
        other: examples(other, sender, scene)[0]
        for other in call.fields
        if other.required and other.where == "body" and _goes_with(other.name, field.name)
    }
    for name, value in scene.values.items():
        needed[call.field(name)] = value
    if any(other.name == "key" for other in call.fields):
        needed[call.field("key")] = sender.key
    if parent != field.name:
        needed.pop(call.field(parent), None)
    return {**needed, field: examples(field, sender, scene)[number]}


def _goes_with(name: str, chosen: str) -> bool:
    """Returns whether the field is in the body itself or in the same object as the chosen field."""
    parent, dot, _ = name.rpartition(".")
    return not dot or parent == chosen.rpartition(".")[0]


def examples(field: Field, sender: Sender, scene: Scene) -> list[Any]:
    if field.name == "key":
        return [sender.key, "nobodys.key"]
    return scene.examples.get(field.name, field.examples)


def said(seen: dict[str, Any]) -> str:
    return ", ".join(str(value) for place, value in seen.items() if place.startswith("answer.body"))[:500]
