"""The server parses large JSON bodies in steps, and gets the same document as Python's parser."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from server.facades.kit import json_bodies
from server.facades.kit.json_bodies import BadBody, parse_json

MIB = 2**20


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the server parse even a few characters in many steps. Each step must still be longer than two escapes."""
    monkeypatch.setattr(json_bodies, "LARGE", 1)
    monkeypatch.setattr(json_bodies, "LONG", 5)
    monkeypatch.setattr("server.limits.steps.STEP", 17)
    monkeypatch.setattr(json_bodies, "STEP", 17)


def plain(body: bytes) -> Any:
    return json_bodies._parsed(body)


def outcome(call: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return json.dumps(call(body))
    except BadBody as e:
        return e.message, e.position


PIECES = ["a", "é", "猫", "🐈", "\\", '"', "/", "\n", "\0", "\ud83d", "\ude00", "\ud83d\ude00", "u0041", " ", "{", ","]


@pytest.mark.usefixtures("small_steps")
def test_documents_are_what_the_parser_makes_of_them() -> None:
    chance = random.Random(0)

    def text() -> str:
        return "".join(chance.choices(PIECES, k=chance.choice([0, 1, 3, 8, 60])))

    def value(depth: int) -> Any:
        kinds: list[Callable[[], Any]] = [text, text, lambda: 1.5, lambda: -7, lambda: None, lambda: True]
        if depth:
            kinds += [lambda: [value(depth - 1) for _ in range(3)], lambda: {text(): value(depth - 1) for _ in "abc"}]
        return chance.choice(kinds)()

    for _ in range(3000):
        document = value(3)
        written = json.dumps(document, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))
        body = written.replace("/", chance.choice(["/", "\\/"])).encode("utf-8", "surrogatepass")
        if b"\xed\xa0" in body or b"\xed\xb8" in body:  # an unescaped lone surrogate is not UTF-8
            assert outcome(parse_json, body)[0] == "The body is not UTF-8"
            continue
        assert json.dumps(parse_json(body)) == json.dumps(plain(body)), body
        assert outcome(parse_json, body + b"]") == outcome(plain, body + b"]"), body
        for torn in (body[:-1], body[: len(body) // 2]):
            if torn.strip():
                assert isinstance(outcome(parse_json, torn), tuple) == isinstance(outcome(plain, torn), tuple), torn


FLAWED = {
    "behind a long text": b'{"a": "%s", "b": nul}' % (b"A" * 100),
    "behind a long text that is not ASCII": '{"a": "%s", "é": nul}'.replace("%s", "猫" * 100).encode(),
    "a control character in a long text": '{"é": "%s\n"}'.replace("%s", "猫" * 100).encode(),
    "an escape that is none": b'{"a": "%s\\q"}' % (b"A" * 100),
    "a short escape": b'{"a": "%s\\u00g0%s"}' % (b"A" * 100, b"A" * 100),
    "a long text without an end": b'{"a": "%s' % (b"A" * 100),
    "two long texts and no comma": b'["%s" "%s"]' % (b"A" * 100, b"A" * 100),
    "more than one document": b'"%s" 1' % (b"A" * 100),
    "no number": b'{"a": "%s", "b": NaN}' % (b"A" * 100),
    "an absurd number": b'{"a": "%s", "b": %s}' % (b"A" * 100, b"9" * 1001),
}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("name", FLAWED)
def test_what_is_wrong_is_said_in_the_parsers_words_and_at_its_place(name: str) -> None:
    assert isinstance(outcome(plain, FLAWED[name]), tuple)
    assert outcome(parse_json, FLAWED[name]) == outcome(plain, FLAWED[name])


def test_long_texts_are_put_back_wherever_they_were() -> None:
    long = "A/" * 100_000
    for document in (long * 6, {long: 1, "b": long * 5}, [[long], {"a": {"b": [long]}, "c": ["d", long * 4]}]):
        for written in (json.dumps(document), json.dumps(document).replace("/", "\\/")):
            assert parse_json(written.encode()) == document


def test_what_no_client_sends_is_refused_before_it_is_parsed() -> None:
    for body, why in (
        (b'"' * 20 * MIB, "100000 values"),
        (b'{"a":"' + b'\\"' * 5_000_000 + b'"}', "4000000 escapes"),
        (b'{"a":' + b" " * 20 * MIB + b"1}", "8 MiB beside"),
        (b"1" * 20 * MIB, "8 MiB beside"),
        (b"\xff" * 2 * MIB, "not UTF-8"),
        (b'{"a":"' + b"A" * MIB + b"\xff" + b"A" * MIB + b'"}', "not UTF-8"),
        (b'{"a":"' + b"A" * 2 * MIB + b'","b":' + b"[" * 90_000, "nested too deeply"),
    ):
        with pytest.raises(BadBody, match=why):
            parse_json(body)
    assert parse_json(b" \n" * MIB) is None
