"""All effects of one API call: the response, the content at the URLs in the response, the jobs and the bodies of their
webhooks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import httpx
from starlette.testclient import TestClient

from server.facades.registry import FACADES
from server.jobs.job import EVENTS, Webhook
from tests.rigs.api_scenes import AFTER, BRACKETS, SCENES, Scene, Sender
from tests.rigs.api_tables import FORM, JSON, Call, Field
from tests.rigs.facade_rig import Rig
from tests.rigs.golden import stable

BASE = "http://here:8000"
OURS = re.compile(rf"{BASE}/(?!files/)[^\s\"\\]+")
COMPARED = ("facade", "endpoint", "request", "priority", "keep_seconds", "webhook", "idempotency", "status", "error")
PASSING = ("date", "content-length", "last-modified", "etag")  # headers that may differ between two calls

Values = dict[Field, Any]


def effect(rig: Rig, call: Call, field: Field, choose: Callable[[Sender, Scene], Values]) -> tuple[int, dict[str, Any]]:
    """Makes the call; returns the response's status code and all effects by paths such as `answer.body.id`."""
    client = TestClient(rig.app, base_url=BASE, raise_server_exceptions=False)
    client.portal = rig.portal
    sender = Sender(client, next(rig.keys), rig)
    rig.release()
    began, scene = rig.clock.now, Scene()
    for name in (call.name, field.name):
        if (call.vendor, name) in SCENES:
            scene = scene.and_(SCENES[call.vendor, name](sender))
    values = choose(sender, scene)
    rig.clock.now = began
    rig.begin()
    by_body = any(field.name == "key" for field in call.fields)
    path = call.path.format(**{**call.places, **scene.places})
    answer = sender.send(call.method, path, with_key=not by_body, **_parts(call, values))
    seen: dict[str, Any] = {"answer": _told(answer)}
    if answer.is_success and (call.vendor, call.name) in AFTER:
        AFTER[call.vendor, call.name](sender, seen["answer"]["body"])
        rig.clock.now = began
    for number, url in enumerate(dict.fromkeys(OURS.findall(json.dumps(seen["answer"])))):
        seen[f"followed {number}"] = _told(sender.send("GET", url))
    for number, file in enumerate(rig.files()):
        digest = hashlib.sha256(rig.context.artifacts.read(file)).hexdigest()
        until = rig.context.artifacts.expires_at(file.key)
        seen[f"file {number}"] = {"name": file.file_name, "type": file.media_type, "until": until, "hash": digest}
    for number, job in enumerate(rig.jobs()):
        seen[f"job {number}"] = {name: value for name, value in asdict(job).items() if name in COMPARED}
        heard = job if job.webhook else replace(job, webhook=Webhook("http://ear/", BASE, EVENTS))
        for event in heard.webhook.events if heard.webhook else ():
            if (letter := FACADES[call.vendor].letter(rig.context, heard, event)) is not None:
                seen[f"letter {number} {event}"] = _read(letter.body)
    return answer.status_code, dict(leaves(stable(seen, {sender.key: "<key>"}, frozenset())))


def _parts(call: Call, values: Values) -> dict[str, Any]:
    body: dict[str, Any] = {}
    parts: dict[str, Any] = {"params": {}, "headers": {}}
    for field, value in values.items():
        if field.where == "query":
            parts["params"][field.name] = value
        elif field.where == "header":
            parts["headers"][field.name] = str(value)
        else:
            *parents, name = field.name.split(".")
            at = body
            for parent in parents:
                at = at.setdefault(parent, {})
            at[name] = value
    if JSON in call.media:
        return {**parts, "json": body}
    if FORM in call.media:
        files = {field.name: ("a.png", str(body.pop(field.name)).encode()) for field in values if field.is_file}
        return {**parts, "files": files, "data": dict(_form(body, call.vendor in BRACKETS))}
    if call.media:
        parts["headers"]["content-type"] = "image/png"
        return {**parts, "content": b"a picture"}
    return parts


def _form(body: dict[str, Any], brackets: bool) -> Iterator[tuple[str, str]]:
    for name, value in body.items():
        if isinstance(value, dict) and brackets:
            yield from ((f"{name}[{member}]", str(inner)) for member, inner in value.items())
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _told(answer: httpx.Response) -> dict[str, Any]:
    headers = {name: value for name, value in answer.headers.items() if name not in PASSING}
    return {"status": answer.status_code, "headers": headers, "body": _read(answer.content)}


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return hashlib.sha256(body).hexdigest()


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the path and the value of each leaf of a JSON value. An empty list or object counts as a leaf."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = False
    for name, member in members:
        found = True
        yield from leaves(member, f"{place}.{name}" if place else str(name))
    if not found:
        yield place, repr(value)
