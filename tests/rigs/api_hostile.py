"""Malformed and hostile requests, derived from a façade's schema."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from tests.rigs.api_judge import KEY, Asked
from tests.rigs.api_tables import FORM, JSON, Call

AUTHORISED = (b"x-api-key", KEY.encode())
AS_JSON = (b"content-type", b"application/json")
BOUNDARY = b"XyZ"
AS_FORM = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308, 10**400),
    *("", " ", "0", "1e999", "NaN", "-1", "\0", "a\0b", "\ud800", "\U0010ffff", "x" * 30_000, "../../etc/passwd"),
    *("http://", "http://[", "http://[::1", "data:", "data:image/png;base64,", "data:,", "file:///etc/passwd", "//x"),
    *("http://here:8000/files/x/y", "http://\ud800.example/", "٣", "%00", "{}", "[]", "null"),
    *([], {}, [[]], [None], {"url": None}, {"": ""}, {"a": {"b": {"c": []}}}, ["x"] * 50, [1, "a", None, {}]),
)
# bodies that cannot be made from the values above
BODIES = {
    "nothing": b"",
    "spaces": b" \r\n ",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"prompt"',
    "a number": b"7",
    "half": b'{"prompt": ',
    "no JSON": b"prompt=a",
    "two documents": b"{}{}",
    "bytes": bytes(range(256)),
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"prompt": "a"}',
    "NaN": b'{"prompt": "a", "seed": NaN, "guidance_scale": NaN}',
    "infinity": b'{"prompt": "a", "seed": 1e999, "guidance_scale": -Infinity}',
    "a number of 5000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "a name twice": b'{"prompt": "a", "prompt": 7}',
    "deep lists": b"[" * 100_000,
    "deep and whole": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep objects": b'{"a":' * 20_000,
    "many values": b'{"prompt": [' + b"0," * 200_000 + b"0]}",
    "odd names": b'{"\\u0000": 1, "\\ud800": 2, "__proto__": {}, "": 3, "prompt": "a"}',
}
TYPES = (
    *(b"", b"text/plain", b"application/x-www-form-urlencoded", b"application/xml", b"application/octet-stream"),
    *(b"application/json;charset:utf-8;", b"application/json; charset=utf-16", b"application/json; charset=nope"),
    *(b"application/problem+json", b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/mixed"),
    *(b"multipart/form-data; boundary=" + b"b" * 300, b"multipart/form-data; boundary=\xff", b"\xff\xfe", b"/", b";"),
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "QUERY", "FOO")
PLACES = (
    *("%00", "a%00b", "%2e%2e", "..", "%2F", "a%2Fb", "%ff", "%ED%A0%80", "%F0%9F%98%80", "x" * 9000, "0", "-1", "1"),
    *("9" * 30, "1" * 5000, "%D9%A3", "1e5", "1.0", "0x10", "nan", "inf", "null", "true", "%20", "a%20b", "%7Bid%7D"),
    *(
        "%25",
        "%0d%0a",
        "*",
        "'",
        '%22"',
        "00000000-0000-0000-0000-000000000000",
        "A" * 32,
        "video_" + "0" * 32,
        "file-x",
    ),
)
WORDS = (
    *(
        b"",
        b"-1",
        b"0",
        b"1",
        b"9" * 30,
        b"1" * 5000,
        b"1e5",
        b"1e999",
        b"nan",
        b"inf",
        b"-inf",
        b"abc",
        b"%00",
        b"a%00b",
    ),
    *(b"%ff", b"%ED%A0%80", b"%F0%9F%98%80", b"null", b"[]", b"{}", b"http%3A%2F%2F", b"http%3A%2F%2F%5B", b"x" * 9000),
    *(
        b"%D9%A3",
        b"true",
        b"..%2F..%2Fetc",
        b"data%3A%2C",
        b"%20",
        b"file%3A%2F%2F%2Fetc",
        b"http%3A%2F%2F%ED%A0%80%2F",
    ),
)
HEADER_VALUES = (
    *(
        b"",
        b"-1",
        b"0",
        b"9" * 30,
        b"1" * 5000,
        b"1e999",
        b"nan",
        b"inf",
        b"\xff\xfe",
        b"x" * 20_000,
        b"wait=",
        b"wait=x",
    ),
    *(b"wait=-1", b"wait=" + b"9" * 30, b"respond-async, wait", b"1h1h", b"9" * 30 + b"s", b"{", b"[]", b"null", b"{}"),
    *(b'{"expiration_duration_seconds": NaN}', b'{"expiration_duration_seconds": 1e400}', b'{"a": ' * 3000),
    *(
        b'{"expiration_duration_seconds": -1}',
        b'{"expiration_duration_seconds": "x"}',
        b"\xc2\xb2",
        b"a;b=c;;",
        b"\x7f",
    ),
    b'{"expiration_duration_seconds": %d}' % 10**400,
)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _token(claims: bytes) -> bytes:
    parts = (b'{"alg": "HS256"}', claims, b"signature")
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


KEYS: tuple[tuple[tuple[bytes, bytes], ...], ...] = (
    (),
    *(
        ((b"authorization", value),)
        for value in (
            *(
                b"",
                b" ",
                b"Bearer",
                b"Bearer ",
                b"Key",
                b"Basic aWQ6c2VjcmV0",
                b"Bearer wrong",
                b"\xff\xfe",
                b"Bearer \xff",
            ),
            *(b"Bearer a.b.c", b"Bearer ..", b"Key :", b"Token \x7f", b"Bearer " + b"x" * 20_000, b"Bearer Bearer x"),
            b"Bearer " + _token(b'{"api_key": "id", "exp": 1e400}'),
            b"Bearer " + _token(b'{"api_key": 1, "exp": "x"}'),
            b"Bearer " + _token(b"[" * 3000),
        )
    ),
    ((b"x-api-key", b""),),
    ((b"x-api-key", b"\xff\xfe"),),
    ((b"x-api-key", b"wrong"), (b"authorization", b"Bearer wrong")),
)


def requests(call: Call, places: dict[str, Any]) -> Iterator[Asked]:
    """Yields all hostile requests for one call. `places` are path parameters for which the path exists."""
    target = call.path.format_map({name: quote(str(value), safe="") for name, value in places.items()}).encode()
    base = {f.name: f.examples[0] for f in call.top if f.required and f.where == "body" and f.examples}
    named = [f for f in call.fields if f.where == "body"]
    if JSON in call.media:
        for what, body in BODIES.items():
            yield Asked(call.method, target, (AUTHORISED, AS_JSON), body, what)
        for field in named:
            for value in VALUES:
                body = _json(_with(base, field.name, value))
                yield Asked(call.method, target, (AUTHORISED, AS_JSON), body, f"{field.name}={value!r:.40}")
        packed = gzip.compress(_json(base))
        encoded = (AUTHORISED, AS_JSON, (b"content-encoding", b"gzip"))
        yield Asked(call.method, target, encoded, packed, "gzip")
    for kind in TYPES:
        yield Asked(call.method, target, (AUTHORISED, (b"content-type", kind)), _json(base), f"as {kind[:40]!r}")
        yield Asked(call.method, target, (AUTHORISED, (b"content-type", kind)), b"a=1&prompt=%ff", f"as {kind[:40]!r}")
    if FORM in call.media or JSON in call.media:
        for what, body in forms([field.name for field in call.top if field.where == "body"]):
            yield Asked(call.method, target, (AUTHORISED, AS_FORM), body, f"a form: {what}")
    for length in (b"999999999999", b"9" * 400, b"-1", b"x", b"\xb2"):
        headers = (AUTHORISED, AS_JSON, (b"content-length", length))
        yield Asked(call.method, target, headers, _json(base), f"content-length {length[:20]!r}")
    for field in call.fields:
        if field.where == "query":
            for word in WORDS:
                odd = target + b"?" + field.name.encode() + b"=" + word
                yield Asked(call.method, odd, (AUTHORISED, AS_JSON), _json(base), "query")
                yield Asked(call.method, odd + b"&" + odd.partition(b"?")[2], (AUTHORISED,), b"", "query twice")
        if field.where == "header":
            for value in HEADER_VALUES:
                header = (field.name.lower().encode(), value)
                yield Asked(call.method, target, (AUTHORISED, AS_JSON, header), _json(base), "header")
    for odd in (b"?", b"?&&=&", b"?%", b"?%ff=%ff", b"?a[]=1&a[b]=2", b"?" + b"a=1&" * 2000):
        yield Asked(call.method, target + odd, (AUTHORISED, AS_JSON), _json(base), "query")


def around(path: str, places: dict[str, Any], methods: Iterable[str] = ("GET", "POST")) -> Iterator[Asked]:
    """Yields variants of requests to the given URL, each with another method, id, key, host or path. Requests with odd
    ids use each of `methods`."""
    target = path.format_map({name: quote(str(value), safe="") for name, value in places.items()}).encode()
    for method in METHODS:
        for body in (b"", b"{}", b'{"prompt": "a"}'):
            yield Asked(method, target, (AUTHORISED, AS_JSON), body, "method")
    for name in places:
        for place in PLACES:
            others = {key: quote(str(value), safe="") for key, value in places.items()}
            odd = path.format_map({**others, name: place}).encode()
            for method in methods:
                yield Asked(method, odd, (AUTHORISED, AS_JSON), b'{"prompt": "a"}', f"{{{name}}}")
    for keys in KEYS:
        for method in ("GET", "POST"):
            yield Asked(method, target, (*keys, AS_JSON), b'{"prompt": "a"}', "key")
    for host in (b"", b"\xff", b"a b", b"[::1", b"queue.", b"x" * 5000, b"here:99999999"):
        headers = (AUTHORISED, AS_JSON, (b"host", host), (b"x-forwarded-host", host), (b"x-forwarded-proto", host))
        yield Asked("POST", target, headers, b'{"prompt": "a"}', "host")
    for tail in (b"/", b"//", b"/nothing", b"/%00", b"/..", b"%2F", b";a=b", b"%ff", b"/" + b"x" * 9000):
        for method in ("GET", "POST"):
            yield Asked(method, target + tail, (AUTHORISED, AS_JSON), b"{}", "path")


def _with(base: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    parent, dot, member = name.partition(".")
    if not dot:
        return {**base, name: value}
    inner = base.get(parent)
    return {**base, parent: {**(inner if isinstance(inner, dict) else {}), member: value}}


def _part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return (
        b"--"
        + BOUNDARY
        + b'\r\nContent-Disposition: form-data; name="'
        + name
        + b'"'
        + more
        + b"\r\n\r\n"
        + value
        + b"\r\n"
    )


def forms(names: list[str]) -> Iterator[tuple[str, bytes]]:
    end = b"--" + BOUNDARY + b"--\r\n"
    plain = _part(b"prompt", b"a")
    file = b'; filename="a.png"\r\nContent-Type: image/png'
    yield "empty", end
    yield "no end", plain
    yield "half a part", plain[:40]
    yield "no boundary in it", b"prompt=a"
    yield "a part without a name", b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + end
    yield "a part without headers", b"--" + BOUNDARY + b"\r\n\r\nx\r\n" + end
    yield "headers without end", b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + b"a" * 50_000
    yield "2000 parts", plain * 2000 + end
    yield "a name of bytes", plain + _part(b"\xff\x00", b"x") + end
    for name in (n.encode() for n in names):
        yield f"{name!r} twice", plain + _part(name, b"a") + _part(name, b"b") + end
        yield f"{name!r} as a file", plain + _part(name, b"not a picture", file) + end
        yield f"{name!r} as an empty file", plain + _part(name, b"", file) + end
        yield f"{name!r} as bytes", plain + _part(name, b"\xff\xfe\x00") + end
        yield f"{name!r} of 2 MiB", plain + _part(name, b"x" * 2 * 2**20) + end
        yield f"{name!r} with an odd file name", plain + _part(name, b"x", b'; filename="../\xff\x00.png"') + end
        yield f"{name!r} in brackets", plain + _part(name + b"[", b"x") + _part(name + b"[a][b]", b"x") + end
        yield f"{name!r} as JSON", plain + _part(name, b'{"a": [NaN', b"\r\nContent-Type: application/json") + end
