"""Prepares calls that need, for example, a video or a started upload, and makes follow-up calls that show an earlier
call's effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.testclient import TestClient

from tests.rigs.facade_rig import Rig
from tests.rigs.house import tensors

PROMPT = {"prompt": "a red circle moves left"}
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAAA1BMVEX/AAAZ4gk3AAAADElEQVR42mNgIA0AAAAwAAEod"
    "El9AAAAAElFTkSuQmCC"
)


@dataclass(frozen=True)
class Scene:
    """What the test of a field needs. `places` are path parameters, and `values` are other fields that the tested field
    requires. `examples` replace the schema's examples. If `refuses` is true, the server must refuse the second
    example."""

    places: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[Any]] = field(default_factory=dict)
    refuses: bool = False

    def and_(self, other: Scene) -> Scene:
        return Scene(
            {**self.places, **other.places},
            {**self.values, **other.values},
            {**self.examples, **other.examples},
            self.refuses or other.refuses,
        )


@dataclass
class Sender:
    """A client with its own key."""

    client: TestClient
    key: str
    rig: Rig

    def send(self, method: str, url: str, *, with_key: bool = True, **parts: Any) -> httpx.Response:
        headers = {**parts.pop("headers", {}), **({"x-api-key": self.key} if with_key else {})}
        return self.client.request(method, url, headers=headers, **parts)

    def wait(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    def made(self, path: str, **parts: Any) -> Any:
        answer = self.send("POST", path, **parts)
        assert answer.status_code < 300, answer.text
        return answer.json()


def _openai_video(sender: Sender) -> Scene:
    return Scene({"video_id": sender.made("/v1/videos", json=PROMPT)["id"]})


def _openai_videos(sender: Sender) -> Scene:
    ids = [sender.made("/v1/videos", json={**PROMPT, "seconds": n})["id"] for n in range(1, 8)]
    return Scene(examples={"after": [ids[3], ids[5]]})


def _openai_files(sender: Sender) -> Scene:
    ids = []
    for number in range(7):
        sender.wait(1)
        form = {"purpose": "vision" if number % 2 else "user_data"}
        ids.append(sender.made("/v1/files", data=form, files={"file": (f"{number}.png", b"a picture")})["id"])
    return Scene(examples={"after": [ids[3], ids[5]]})


def _zhipu_tasks(sender: Sender) -> Scene:
    body = {"model": "cogvideox-3", **PROMPT}
    ids = [sender.made("/api/paas/v4/videos/generations", json=body)["id"] for _ in range(2)]
    return Scene({"task_id": ids[0]}, examples={"ids": [[ids[0]], ids]})


def _modelslab_job(sender: Sender) -> Scene:
    body = {"key": sender.key, "model_id": "cogvideox", **PROMPT}
    ids = [sender.made("/api/v6/video/text2video", json={**body, "seed": seed})["id"] for seed in (1, 2)]
    return Scene({"request_id": ids[0]}, examples={"request_id": ids})


def _fal_job(sender: Sender) -> Scene:
    return Scene({"request_id": sender.made("/queue/fal-ai/cogvideox-5b", json=PROMPT)["request_id"]})


def _fal_waiting(sender: Sender) -> Scene:
    sender.rig.hold()
    for _ in range(2):
        sender.made("/queue/fal-ai/cogvideox-5b", json=PROMPT)
    return Scene(examples={"fal_max_queue_length": [10, 1]}, refuses=True)


def _fal_ticket(sender: Sender) -> Scene:
    upload = sender.made("/storage/upload/initiate", json={"file_name": "a.png", "content_type": "image/png"})
    _, _, _, key, name, _, ticket = urlsplit(upload["upload_url"]).path.split("/")
    return Scene({"key": key, "name": name, "ticket": ticket, "number": 1})


def _fal_parts(sender: Sender) -> Scene:
    scene = _fal_ticket(sender)
    for number in (1, 2):
        address = "/fal/files/{key}/{name}/multipart/{ticket}".format(**scene.places)
        assert sender.send("PUT", f"{address}/{number}", content=b"part").status_code < 300
    parts = [[{"partNumber": 1}], [{"partNumber": 1}, {"partNumber": 2}]]
    return scene.and_(Scene(examples={"parts": parts}))


def _fal_sent(sender: Sender, answer: Any) -> None:
    assert sender.send("PUT", answer["upload_url"], content=b"a picture", with_key=False).status_code < 300


def _fal_sent_in_parts(sender: Sender, answer: Any) -> None:
    address = answer.get("upload_url") or f"{answer['access_url']}/multipart/{answer['uploadId']}"
    part = sender.send("PUT", f"{address}/1", content=b"a picture")
    assert part.status_code < 300, part.text
    done = sender.send("POST", f"{address}/complete", json={"parts": [{"partNumber": 1, "etag": part.headers["etag"]}]})
    assert done.status_code < 300, done.text


def _fal_token_used(sender: Sender, answer: Any) -> None:
    """Uses the token immediately and five minutes later."""
    for later in (0, 300):
        sender.wait(later)
        token = {"fal_jwt_token": answer}
        sender.send("POST", "/run/fal-ai/cogvideox-5b", params=token, json=PROMPT, with_key=False)


def _style(sender: Sender) -> None:
    folder = sender.rig.context.settings.lora_folder
    folder.mkdir(exist_ok=True)
    tensors(folder / "style.safetensors", {"transformer_blocks.0.attn1.to_q.lora_A.weight": [1, 1]})


def _fal_loras(sender: Sender) -> Scene:
    _style(sender)
    return Scene(examples={"loras": [[], [{"path": "style", "scale": 0.5}]]})


def _openai_lora(sender: Sender) -> Scene:
    _style(sender)
    return Scene()


def _zhipu_prompt(sender: Sender) -> Scene:
    return Scene(values={"prompt": "a red circle moves left"})


# (vendor, call or field) -> the function that prepares it
SCENES: dict[tuple[str, str], Callable[[Sender], Scene]] = {
    ("openai", "POST /v1/videos/{video_id}/remix"): _openai_video,
    ("openai", "GET /v1/videos/{video_id}/content"): _openai_video,
    ("openai", "GET /v1/videos"): _openai_videos,
    ("openai", "GET /v1/files"): _openai_files,
    ("openai", "lora"): _openai_lora,
    ("openai", "frame_interpolation_exp"): lambda _: Scene(values={"enable_frame_interpolation": True}),
    ("openai", "model"): lambda _: Scene(examples={"model": ["sora-2", "another"]}, refuses=True),
    ("modelslab", "model_id"): lambda _: Scene(examples={"model_id": ["cogvideox", "another"]}, refuses=True),
    ("zhipu", "POST /api/paas/v4/videos/generations"): _zhipu_prompt,
    ("zhipu", "POST /302/v2/video/create"): _zhipu_prompt,
    ("zhipu", "GET /api/paas/v4/async-result/{task_id}"): _zhipu_tasks,
    ("zhipu", "POST /cogvideox/v4/async-results"): _zhipu_tasks,
    ("modelslab", "POST /api/v6/video/fetch/{request_id}"): _modelslab_job,
    ("modelslab", "POST /api/v6/video/fetch"): _modelslab_job,
    ("modelslab", "GET /api/v6/video/fetch"): _modelslab_job,
    ("fal", "GET /queue/fal-ai/cogvideox-5b/requests/{request_id}/status"): _fal_job,
    ("fal", "GET /queue/fal-ai/cogvideox-5b/requests/{request_id}/status/stream"): _fal_job,
    ("fal", "PUT /fal/files/{key}/{name}/multipart/{ticket}"): _fal_ticket,
    ("fal", "PUT /fal/files/{key}/{name}/multipart/{ticket}/{number}"): _fal_ticket,
    ("fal", "POST /fal/files/{key}/{name}/multipart/{ticket}/complete"): _fal_parts,
    ("fal", "fal_max_queue_length"): _fal_waiting,
    ("fal", "loras"): _fal_loras,
    ("fal", "allowed_apps"): lambda _: Scene(examples={"allowed_apps": [["cogvideox-5b"], ["flux"]]}),
    ("replicate", "POST /v1/deployments/{owner}/{name}/predictions"): lambda _: Scene({"owner": "me", "name": "mine"}),
    ("replicate", "webhook_events_filter"): lambda _: Scene(values={"webhook": "https://example.com/hook"}),
    ("huggingface", "parameters.prompt"): lambda _: Scene({"name": "CogVideoX-5b-I2V"}, {"inputs": PICTURE}),
}
# (vendor, call) -> the follow-up call, which uses the first call's response
AFTER: dict[tuple[str, str], Callable[[Sender, Any], None]] = {
    ("fal", "POST /storage/upload/initiate"): _fal_sent,
    ("fal", "POST /storage/upload/initiate-multipart"): _fal_sent_in_parts,
    ("fal", "POST /files/upload/multipart"): _fal_sent_in_parts,
    ("fal", "POST /tokens"): _fal_token_used,
}
# the forms of these clouds write an object as `name[member]`; other clouds' forms write it as JSON
BRACKETS = ("openai",)
# (vendor, field) pairs of fields whose only effect is that responses repeat them
TOLD_AGAIN = {("modelslab", "track_id"), ("zhipu", "request_id")}
# (vendor, field) -> why these scenes cannot show the field's effect
UNSHOWN = {
    ("fal", "x-fal-request-timeout"): "the time ends when a job starts, and jobs start at once here: fal/test_calls.py",
    ("replicate", "Prefer"): "limits the wait for a job, and jobs finish at once here: replicate/test_calls.py",
    ("replicate", "Cancel-After"): "cancels a job later, and jobs finish at once here: replicate/test_calls.py",
    ("replicate", "cursor"): "needs more than one page of predictions: replicate/test_states.py",
}
