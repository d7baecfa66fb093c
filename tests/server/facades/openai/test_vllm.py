"""OpenAI's create call also accepts the names of checkpoints and the fields of vLLM-Omni."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.request import Lora
from server.facades.kit.samples import RED
from server.facades.openai.models import IGNORED
from tests.rigs.facade_rig import Build, Rig


def notes_of(served: Rig, **fields: Any) -> list[str]:
    answer = served.client.post("/v1/videos", json={"prompt": "a", **fields})
    assert answer.status_code == 200, answer.text
    notes: list[str] = answer.json()["notes"]
    return notes


@pytest.mark.parametrize(
    "name",
    [
        *("zai-org/CogVideoX-2b", "THUDM/CogVideoX-2b", "cogvideox-2b", "CogVideoX-2B", "openai/CogVideoX_2b"),
        *("zai-org/CogVideoX1.5-5B", "cogvideox-1.5-5b", "https://huggingface.co/zai-org/CogVideoX1.5-5B/"),
    ],
)
def test_a_checkpoint_that_is_not_served_is_answered_by_what_is(served: Rig, name: str) -> None:
    answer = served.client.post("/v1/videos", json={"prompt": "a", "model": name}).json()
    assert answer["model"] == "cogvideox-5b"
    assert answer["notes"] == [f"model: {name} -> cogvideox-5b (what is served here for text-to-video)"]


@pytest.mark.parametrize("name", ["zai-org/CogVideoX-5b-I2V", "cogvideox-1.5-5b-i2v", "THUDM/CogVideoX1.5-5B-I2V"])
def test_one_that_needs_a_picture(served: Rig, name: str) -> None:
    refused = served.client.post("/v1/videos", json={"prompt": "a", "model": name})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_reference")
    taken = served.client.post("/v1/videos", json={"prompt": "a", "model": name, "input_reference": RED})
    assert taken.status_code == 200


def test_the_names_that_need_no_word(served: Rig) -> None:
    for name in ("sora-2", "sora-2-pro-2025-10-06", "cogvideox-5b", "THUDM/CogVideoX-5B"):
        assert notes_of(served, model=name) == []


@pytest.mark.parametrize(
    "name", ["gpt-4", "cogvideox", "zai-org/CogView4-6B", "CogVideoX-5b-SAT", "demo", "/", "zai-org/"]
)
def test_other_names_are_told_what_is_served(served: Rig, name: str) -> None:
    refused = served.client.post("/v1/videos", json={"prompt": "a", "model": name})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "model")
    assert "'cogvideox-5b', 'cogvideox-5b-i2v'" in error["message"]


def test_create_takes_every_model_that_is_listed(served: Rig) -> None:
    client = served.client
    listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert {"cogvideox-5b", "cogvideox-5b-i2v", "sora-2", "sora-2-pro"} <= set(listed)
    assert len(set(listed)) == len(listed)
    for name in listed:
        body = {"prompt": "a", "model": name, "input_reference": RED}
        assert client.post("/v1/videos", json=body).status_code == 200
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    for path in ("zai-org/CogVideoX-2b", "zai-org%2FCogVideoX-2b"):
        assert client.get(f"/v1/models/{path}").json()["id"] == "zai-org/CogVideoX-2b"


@pytest.mark.parametrize("name", IGNORED)
def test_a_field_without_effect_is_named(served: Rig, name: str) -> None:
    _, why = IGNORED[name]
    assert notes_of(served, **{name: "0.7"}) == [f"{name}: ignored ({why})"]
    assert notes_of(served, extra_params={name: 0.7}) == [f"extra_params.{name}: ignored ({why})"]
    assert notes_of(served, **{name: None}) == []


def test_what_asks_for_nothing_needs_no_word(served: Rig) -> None:
    assert notes_of(served, generate_sound=False, frame_interpolation_scale=1, enable_frame_interpolation=False) == []
    form = {"prompt": "a", "generate_sound": "false", "flow_shift": ""}
    assert served.client.post("/v1/videos", data=form).json()["notes"] == []


def test_fields_nobody_knows_are_named_within_bounds(served: Rig) -> None:
    assert notes_of(served, cfg_zero=True, video_params={"codec": "h265"}, extra_params='{"shift": 1}') == [
        "cfg_zero: ignored (this server has no such field)",
        "extra_params.shift: ignored (this server has no such field)",
        "video_params.codec: ignored (this server has no such field)",
    ]
    raw = json.dumps({"prompt": "a", "\ud800\0": 1, **{f"x{n}" * 100: n for n in range(1, 1001)}})
    notes = served.client.post("/v1/videos", content=raw).json()["notes"]
    assert (len(notes), notes[-1]) == (21, "and 981 more fields")
    assert max(map(len, notes)) < 120
    assert len(json.dumps(served.table.last.memo)) < 5000


LORAS: list[tuple[Any, float]] = [
    ({"name": "style", "scale": 0.5}, 0.5),
    ({"lora_name": "style", "lora_scale": "0.5", "lora_int_id": 3}, 0.5),
    ({"path": "style", "name": "a name for it"}, 1.0),
    ({"local_path": "style", "scale": None}, 1.0),
    ('{"adapter": "style", "scale": -2}', -2.0),
    ("style", 1.0),
]


@pytest.mark.parametrize(("lora", "scale"), LORAS)
def test_a_lora_acts(served: Rig, lora: Any, scale: float) -> None:
    client, table = served.client, served.table
    assert notes_of(served, lora=lora) == []
    assert table.last.request.loras == (Lora("style.safetensors", scale),)
    assert notes_of(served, extra_params={"lora": lora}) == []
    assert table.last.request.loras == (Lora("style.safetensors", scale),)
    text = lora if isinstance(lora, str) else json.dumps(lora)
    assert client.post("/v1/videos", data={"prompt": "a", "lora": text}).status_code == 200
    assert table.last.request.loras == (Lora("style.safetensors", scale),)


def test_a_lora_in_brackets(served: Rig) -> None:
    form = {"prompt": "a", "lora[path]": "style", "lora[scale]": "0.25"}
    assert served.client.post("/v1/videos", data=form).status_code == 200
    assert served.table.last.request.loras == (Lora("style.safetensors", 0.25),)


@pytest.mark.parametrize(
    ("lora", "param", "said"),
    [
        ({"path": "another"}, "lora", "no LoRA 'another' is installed here; there are: style"),
        ({"path": "http://127.0.0.1/lora.safetensors"}, "lora", "Nothing came from that address"),
        ({"path": "style", "scale": 11}, "lora[scale]", "must be between -10 and 10, got 11"),
        ({"path": "style", "scale": True}, "lora[scale]", "must be a number"),
        ({"scale": 1}, "lora[path]", "Missing required parameter"),
        ({"path": " "}, "lora[path]", "must not be blank"),
        ([], "lora", "must be an object with path and scale"),
        (7, "lora", "must be an object with path and scale"),
    ],
)
def test_a_lora_that_cannot_act_is_refused(served: Rig, lora: Any, param: str, said: str) -> None:
    answer = served.client.post("/v1/videos", json={"prompt": "a", "lora": lora})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "frames", "fps", "seconds"),
    [
        ({"seconds": "4"}, 64, 16, "4"),
        ({"seconds": "4", "frame_interpolation_exp": "2"}, 128, 32, "4"),
        ({"seconds": "2", "fps": 24}, 96, 48, "2"),
        ({"num_frames": 48, "fps": 24}, 96, 48, "2"),
    ],
)
def test_frames_between_are_drawn(build: Build, fields: dict[str, Any], frames: int, fps: int, seconds: str) -> None:
    rig = build(rife=True)
    client, table = rig.client, rig.table
    answer = client.post("/v1/videos", json={"prompt": "a", **fields, "enable_frame_interpolation": True}).json()
    plan = table.last.plan
    assert plan is not None
    assert (plan["num_frames"], plan["interpolate_fps"], answer["seconds"]) == (frames, fps, seconds)


def test_frames_between_where_the_model_has_its_own_rate(build: Build) -> None:
    served = build(rife=True)
    assert notes_of(served, num_frames=49, enable_frame_interpolation=True) == []
    request = served.table.last.request
    assert (request.num_frames, request.fps, request.interpolate_fps) == (49, 8, 16)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": "720x480", "width": 96, "height": 480}, "width: ignored (size says it)"),
        ({"size": "720x480", "video_params": {"height": 64}}, "height: ignored (size says it)"),
        ({"num_frames": 49, "seconds": "8"}, "seconds: ignored (num_frames says it)"),
        ({"frame_interpolation_exp": 2}, "frame_interpolation_exp: ignored (enable_frame_interpolation is not true)"),
        ({"size": "720x480", "width": 720, "height": 480}, None),
        ({"seconds": "8", "width": 96, "height": 64}, None),
    ],
)
def test_a_field_that_another_one_overrules_is_named(served: Rig, fields: dict[str, Any], said: str | None) -> None:
    assert [note for note in notes_of(served, **fields) if "ignored" in note] == ([] if said is None else [said])


def test_frames_between_that_cannot_be_drawn(build: Build, served: Rig) -> None:
    assert notes_of(served, enable_frame_interpolation="true") == [
        "enable_frame_interpolation: ignored (no network that draws frames is installed)"
    ]
    body = {"prompt": "a", "fps": 100, "enable_frame_interpolation": True}
    error = build(rife=True).client.post("/v1/videos", json=body).json()["error"]
    assert error["param"] == "enable_frame_interpolation"
    assert "become 200, at most 120" in error["message"]
