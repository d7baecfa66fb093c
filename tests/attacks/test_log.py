"""Log injection: client input cannot add log lines or terminal control sequences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.rigs.attacks.rig import ATTACKER, Target, attacked

pytestmark = pytest.mark.slow
EVIL = '\n2026-01-01 00:00:00 [info     ] EVIL\r\nEVIL\x1b[2J\x1b]0;EVIL\x07\x9b31m\u2028EVIL\x85EVIL", "event": "EVIL'
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
STYLE = re.compile("\x1b\\[[0-9;]*m")  # the log's own colours


@pytest.fixture(scope="module", params=["text", "json"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("log")
    with attacked(folder, log_format=request.param, log_level="debug", allow_private_urls=True) as target:
        yield target


def test_no_field_writes_into_the_log(target: Target) -> None:
    path, small = quote(EVIL), {"prompt": f"steps=1 sleep=0 {EVIL}"}
    bodies = [
        {EVIL: EVIL},
        {"prompt": EVIL, EVIL: {EVIL: EVIL}},
        {**small, "model": EVIL},
        {**small, "size": EVIL},
        {**small, "fit": EVIL},
        {**small, "seed": EVIL},
        {**small, "input_reference": EVIL},
        {**small, "input_reference": f"http://127.0.0.1:9/{EVIL}"},
        {**small, "image": EVIL, "image_url": EVIL, "init_image": EVIL, "model_id": EVIL, "key": ATTACKER},
        {**small, "request_id": EVIL, "user_id": EVIL, "quality": EVIL, "model": "cogvideox-2"},
        {**small, "webhook": EVIL, "track_id": EVIL, "model_id": "cogvideox", "key": ATTACKER},
        {**small, "video_size": EVIL, "loras": [{"path": EVIL}, {"path": f"a/{EVIL}"}]},
        {**small, "loras": [{"path": f"http://127.0.0.1:9/{EVIL}"}]},
        {"version": EVIL, "input": {**small, EVIL: EVIL}, "webhook": EVIL, "webhook_events_filter": [EVIL]},
        {"inputs": EVIL, "parameters": {EVIL: EVIL}},
        {"data_urls": [EVIL, f"data:{EVIL};base64,AAAA"]},
    ]
    paths = [
        "/v1/videos",
        "/v2/cog-video-5b-i2v",
        "/queue/fal-ai/cogvideox-5b",
        "/run/fal-ai/cogvideox-5b/image-to-video",
        "/api/paas/v4/videos/generations",
        "/api/v6/video/text2video",
        "/v1/predictions",
        "/v1/models/cuuupid/cogvideox-5b/predictions",
        "/models/zai-org/CogVideoX-5b",
        "/upload-asset",
    ]
    looks = [f"/{path}", f"/v1/videos/{path}", f"/v1/videos?after={path}", f"/models/{path}/{path}", f"/{path}/fal-ai"]
    looks += [f"/queue/fal-ai/cogvideox-5b/requests/{path}/status?logs={path}", f"/files/{path}/{path}"]
    looks += [f"/v1/predictions/{path}", f"/v1/models/{path}/{path}", f"/api/paas/v4/async-result/{path}"]
    with target.as_attacker() as session:
        for scheme in ("Bearer", "Key"):
            session.headers["authorization"] = f"{scheme} {ATTACKER}"
            for where in paths:
                for body in bodies:
                    assert session.post(f"{target.url}{where}", json=body, timeout=60).status_code < 500, (where, body)
            for where in looks:
                for key in (session.headers["authorization"], "", f"{scheme} EVIL\x85\x9b"):
                    headers = {"authorization": key, "user-agent": "EVIL\x85\x9b31m", "x-forwarded-for": "EVIL\x85"}
                    answer = session.get(f"{target.url}{where}", headers=headers, timeout=60)
                    assert answer.status_code < 500, where
        for name in ("fal_webhook", "fal_max_queue_length", EVIL):
            session.post(f"{target.url}{paths[2]}", params={name: EVIL}, json=small, timeout=60)
        form = {"file": (EVIL, b"EVIL", "EVIL/\x85"), "content": (EVIL, b"EVIL", "EVIL/EVIL")}
        for where in ("/v1/files", "/v1/videos"):
            session.post(f"{target.url}{where}", files=form, data={"purpose": EVIL, "prompt": EVIL}, timeout=60)
        session.request("EVIL", f"{target.url}/v1/videos", timeout=60)
    log = STYLE.sub("", target.log.read_bytes().decode())
    assert log.count("\n") > 100
    assert not (found := CONTROL.search(log)), log[max(0, found.start() - 200) : found.end() + 100]
    assert not [line for line in log.split("\n") if line.startswith(("EVIL", "2026-01-01"))]
