"""Rules decide whether an answer is JSON or the video itself. Each rule's condition works, and the first match
decides."""

from __future__ import annotations

from typing import Any

import pytest

from server.facades.segmind.form import choose

AXIOS = (b"accept", b"application/json, text/plain, */*")
REQUESTS = (b"user-agent", b"python-requests/2.32.0")
TYPE, LENGTH = (b"content-type", b"application/json"), (b"content-length", b"9")


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"query": "json"}, "json"),
        ({"query": "binary", "base64": True}, "binary"),
        ({"query": "nonsense"}, "binary"),
        ({"headers": [(b"x-response-format", b"JSON")]}, "json"),
        ({"base64": True, "headers": [(b"accept", b"video/mp4")]}, "json"),
        ({"headers": [(b"accept", b"video/*;q=1, application/json")], "setting": "json"}, "binary"),
        ({"headers": [(b"accept", b"application/octet-stream")]}, "binary"),
        ({"headers": [(b"accept", b"application/json")], "setting": "binary"}, "json"),
        ({"headers": [AXIOS]}, "binary"),
        ({"headers": [AXIOS], "setting": "json"}, "json"),
        ({"headers": [REQUESTS, TYPE, LENGTH]}, "json"),
        ({"headers": [REQUESTS, LENGTH, TYPE]}, "binary"),
        ({"headers": [REQUESTS, TYPE]}, "binary"),
        ({"headers": [REQUESTS, TYPE, LENGTH], "setting": "binary"}, "binary"),
        ({"headers": [REQUESTS, TYPE, LENGTH, (b"x-initiator", b"SDK-PY")]}, "binary"),
        ({"headers": [(b"user-agent", b"segmind-python-sdk/1.3.0"), TYPE, LENGTH]}, "binary"),
        ({"headers": [(b"user-agent", b"curl/8"), TYPE, LENGTH]}, "binary"),
        ({}, "binary"),
    ],
)
def test_which_form(given: dict[str, Any], form: str) -> None:
    assert choose(**{"query": None, "base64": False, "headers": [], **given}) == form
