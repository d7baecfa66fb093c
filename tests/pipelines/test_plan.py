"""The key of saved latents covers every field of SamplingPlan, and none of VideoPlan."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from pipelines.plan import Extender, Plan, SamplingPlan, VideoPlan, sampling_key
from pipelines.request import Lora, Task
from pipelines.resolve import resolve
from tests.rigs.plans import CLIP, PICTURE, ask, model

MODEL = {"name": "m", "dtype": "float32"}
LORA = Lora("/a/style.safetensors", 0.5, "0" * 64)


def full() -> Plan:
    """A plan in which every field has a value."""
    request = ask(image=PICTURE, extend=True, num_frames=97, loras=(LORA,), duration=None)
    plan = resolve(request, model("cogvideox-5b-i2v"))
    return replace(plan, sampling=replace(plan.sampling, strength=0.5, source_frames=13))


def other(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case None:
            return 1
        case bool():
            return not value
        case Task():
            return Task.T2V
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case Extender():
            return replace(value, model="x")
        case tuple():
            return (*value, *value[:1])
    raise AssertionError(f"no other value for {value!r}")


@pytest.mark.parametrize("name", [field.name for field in fields(SamplingPlan)])
def test_every_field_of_the_sampling_plan_changes_the_key(name: str) -> None:
    plan = full().sampling
    assert getattr(plan, name) not in (None, ()), "the test needs a value of this field"
    changed = replace(plan, **{name: other(getattr(plan, name))})
    assert sampling_key(changed, MODEL) != sampling_key(plan, MODEL)


@pytest.mark.parametrize("name", [field.name for field in fields(VideoPlan)])
def test_no_field_of_the_video_plan_changes_the_key(name: str) -> None:
    plan = full()
    changed = replace(plan, video=replace(plan.video, **{name: other(getattr(plan.video, name))}))
    assert changed != plan
    assert sampling_key(changed.to_dict(), MODEL) == sampling_key(plan.to_dict(), MODEL)


@pytest.mark.parametrize("name", [field.name for field in fields(Extender)])
def test_how_the_extender_samples_changes_the_key(name: str) -> None:
    plan = full().sampling
    assert plan.extender is not None
    extender = replace(plan.extender, **{name: other(getattr(plan.extender, name))})
    assert sampling_key(replace(plan, extender=extender), MODEL) != sampling_key(plan, MODEL)


def test_the_key_covers_the_model_and_the_clip_before() -> None:
    plan = full().sampling
    keys = {
        sampling_key(plan, MODEL),
        sampling_key(plan, {**MODEL, "dtype": "bfloat16"}),
        sampling_key(plan, MODEL, "a"),
        sampling_key(plan, MODEL, "b"),
    }
    assert len(keys) == 4


def test_a_lora_counts_by_its_content_scale_and_alpha() -> None:
    def key(lora: Lora) -> str:
        return sampling_key(replace(full().sampling, loras=(lora,)), MODEL)

    assert key(LORA) == key(replace(LORA, path="/b/renamed.safetensors"))
    changed = (replace(LORA, sha256="1" * 64), replace(LORA, scale=1.0), replace(LORA, alpha=1.0))
    assert len({key(LORA), *map(key, changed)}) == 4
    unknown = replace(LORA, sha256=None)
    assert key(unknown) != key(replace(unknown, path="/b/other.safetensors")), "without a hash, the path counts"


def test_the_key_is_the_same_from_json() -> None:
    for plan in (full(), resolve(ask(video=CLIP), model("cogvideox-5b")), resolve(ask(), model("cogvideox-2b"))):
        assert sampling_key(plan.to_dict(), MODEL) == sampling_key(plan.sampling, MODEL)
    with pytest.raises(KeyError):
        sampling_key({k: v for k, v in full().to_dict().items() if k != "seed"}, MODEL)


def test_the_two_plans_share_no_name() -> None:
    """`Plan.to_dict()` merges the fields of both plans."""
    names = [field.name for part in (SamplingPlan, VideoPlan) for field in fields(part)]
    assert len(names) == len(set(names)) and {"notes", "tokens"}.isdisjoint(names)


def test_a_clip_has_the_key_of_the_same_clip_alone() -> None:
    alone = resolve(ask(image=PICTURE), model("cogvideox-5b-i2v")).sampling
    longer = resolve(ask(image=PICTURE, extend=True, num_frames=140), model("cogvideox-5b-i2v")).sampling
    assert longer.extension and longer.clip(0) == alone
    assert longer.clip(1).seed == alone.seed + 1 and longer.clip(2).seed == alone.seed + 2
    assert all(field.default is not MISSING for field in fields(SamplingPlan) if field.name.startswith("exten"))
