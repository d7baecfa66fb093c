"""With a LoRA, the engine makes the same videos as diffusers' own loader, and the LoRA has no effect on later
videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import load_file
from torch import Tensor

from pipelines.engine.generate import Engine
from pipelines.errors import GenerationError
from pipelines.events import Event, Log, Started
from pipelines.frames.decode import decode
from pipelines.lora.adapters import read_adapter
from pipelines.lora.cache import Adapters
from pipelines.request import GenerationRequest, Lora, RequestError
from tests.rigs import checkpoints
from tests.rigs.engines import ask, clip_file, finished, new_engine, picture_file
from tests.rigs.loras import LAYOUTS, MODULES, RANK, Pairs, draw, of_kinds, write

SHORT = {"num_frames": 5, "num_inference_steps": 2}
TASKS: list[tuple[checkpoints.Kind, str]] = [
    ("2b", "text"),
    ("2b", "video"),
    ("5b", "text"),
    ("5b", "video"),
    ("5b-i2v", "image"),
    ("1.5-5b", "text"),
    ("1.5-5b", "video"),
    ("1.5-5b-i2v", "image"),
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return new_engine()


def known(engine: Engine, kind: str = "5b", seed: int = 2) -> Pairs:
    """An adapter for that model, strong enough for a visible effect."""
    transformer = engine.loader.load(engine.models[kind], kind).transformer
    return {name: (down * 3, up * 3) for name, (down, up) in draw(transformer, seed=seed).items()}


def made(engine: Engine, request: GenerationRequest, kind: str = "5b") -> tuple[Tensor, Tensor]:
    """Latents and frames (uint8), before encoding."""
    frames, latents = [], []

    def watched(vae: Any, given: Tensor) -> Iterator[Tensor]:
        latents.append(given.clone())
        for chunk in decode(vae, given):
            frames.append(chunk.clone())
            yield chunk

    with pytest.MonkeyPatch.context() as m:
        m.setattr("pipelines.frames.stitch.decode", watched)
        finished(engine.run(request, kind))
    return latents[0], torch.cat(frames)


def by_diffusers(engine: Engine, request: GenerationRequest, kind: str, file: Path, weight: float) -> Tensor:
    """The same run with the adapter attached by `load_lora_weights` and `set_adapters`."""

    def attach_all(transformer: Any, loras: Any) -> Iterator[Event]:
        pipe = CogVideoXPipeline(None, None, None, transformer, None)
        pipe.load_lora_weights(load_file(file), adapter_name="reference")
        pipe.set_adapters(["reference"], [weight])
        return {}
        yield

    with pytest.MonkeyPatch.context() as m:
        m.setattr("pipelines.engine.generate.attach_all", attach_all)
        return made(engine, replace(request, loras=(Lora(str(file)),)), kind)[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_makes_the_video_of_diffusers_own_loader(engine: Engine, tmp_path: Path, layout: str) -> None:
    """Each layout stores alpha as its trainer does: in tensors, in a sidecar file, or not at all. SAT's alpha is 1."""
    pairs, request = known(engine), ask(**SHORT)
    reference = write(tmp_path / "reference.safetensors", pairs)
    alphas = {LAYOUTS[layout](m)[0].split(".lora_")[0] + ".alpha": torch.tensor(2.0) for m in MODULES}
    stored = layout in ("VideoX-Fun", "kohya", "down up")
    path = write(tmp_path / "style.safetensors", pairs, layout, alphas if stored else {})
    alpha = 2.0 if stored else float(RANK)
    if layout == "bare":
        path.with_name("style.safetensors.json").write_text('{"alpha": 1}')
        alpha = 1.0
    _, frames = made(engine, replace(request, loras=(Lora(str(path), 2.0),)))
    wanted = by_diffusers(engine, request, "5b", reference, 2.0 * alpha / RANK)
    assert not torch.equal(wanted, made(engine, request)[1])
    assert torch.equal(frames, wanted)


@pytest.mark.parametrize(("kind", "task"), TASKS)
def test_every_model_and_task_takes_them(engine: Engine, tmp_path: Path, kind: checkpoints.Kind, task: str) -> None:
    request = ask(**SHORT)
    if task == "image":
        request = replace(request, image=picture_file(tmp_path))
    if task == "video":
        request = replace(request, video=clip_file(tmp_path), strength=1.0)
    pairs = known(engine, kind)
    reference = write(tmp_path / "reference.safetensors", pairs)
    path = write(tmp_path / "style.safetensors", pairs, "VideoX-Fun")
    before = finished(engine.run(request, kind)).video
    _, frames = made(engine, replace(request, loras=(Lora(str(path), 0.5),)), kind)
    assert not torch.equal(frames, made(engine, request, kind)[1])
    assert torch.equal(frames, by_diffusers(engine, request, kind, reference, 0.5))
    assert finished(engine.run(request, kind)).video == before


def test_two_with_weights_are_the_sum_of_their_weights(engine: Engine, tmp_path: Path) -> None:
    one, two = known(engine), known(engine, seed=6)
    both = (
        Lora(str(write(tmp_path / "one.safetensors", one)), 0.5),
        Lora(str(write(tmp_path / "two.safetensors", two, "VideoX-Fun")), -0.8),
    )
    latents, frames = made(engine, ask(**SHORT, loras=both))
    changed = new_engine()
    transformer = changed.loader.load(changed.models["5b"], "5b").transformer
    plain, _ = made(changed, ask(**SHORT))
    with torch.no_grad():
        for pairs, weight in ((one, 0.5), (two, -0.8)):
            for name, (down, up) in pairs.items():
                transformer.get_submodule(name).weight += weight * up @ down
    wanted, wanted_frames = made(changed, ask(**SHORT))
    assert (wanted - plain).abs().max() > 0.1
    assert torch.allclose(wanted, latents, atol=1e-4)
    assert (wanted_frames.int() - frames.int()).abs().max() <= 1


def test_the_log_says_alphas_origin_and_the_manifest_says_which_file(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "style.safetensors", known(engine), "bare")
    events = list(engine.run(ask(**SHORT, loras=(Lora(str(path), 0.7, alpha=None),)), "5b"))
    said = [e for e in events if isinstance(e, Log) and "style.safetensors" in e.message]
    assert "scale 0.7, rank 4, alpha 4 (from nothing, so alpha = rank), 8 modules" in said[0].message
    assert "layout no prefix, lora_A/lora_B" in said[0].message
    assert said[1].level == "WARN" and "--alpha 1" in said[1].message
    (kept,) = finished(events).manifest["plan"]["loras"]
    assert (kept["file"], kept["scale"], len(kept["sha256"])) == ("style.safetensors", 0.7, 64)
    assert next(e for e in events if isinstance(e, Started)).plan["loras"][0]["sha256"] == kept["sha256"]
    asked = list(engine.run(ask(**SHORT, loras=(Lora(str(path), 0.7, alpha=1.0),)), "5b"))
    assert any(isinstance(e, Log) and "alpha 1 (from request)" in e.message for e in asked)
    assert finished(asked).video != finished(events).video
    of_kinds(engine.loader.load(engine.models["5b"], "5b").transformer, path)
    said = [e for e in engine.run(ask(**SHORT, loras=(Lora(str(path)),)), "5b") if isinstance(e, Log)]
    assert any(
        "rank differs, alpha differs (from nothing" in e.message and "; DoRA, LoHa, LoKr" in e.message for e in said
    )


def test_what_an_owner_says_of_alpha_later_makes_another_video(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not use the earlier video's saved latents, because their key differs from this video's key."""
    keys: list[Any] = []
    monkeypatch.setattr(
        "pipelines.engine.generate.sampling_key", lambda *what: keys.append(repr(what[1])) or str(what[1])
    )
    path = write(tmp_path / "style.safetensors", known(engine))
    request = ask(**SHORT, loras=(Lora(str(path)),))
    before = finished(engine.run(request, "5b")).video
    path.with_name("style.safetensors.json").write_text('{"alpha": 1}')
    assert finished(engine.run(request, "5b")).video != before
    assert len(set(keys)) == 2


def test_what_cannot_be_used_is_refused_and_the_engine_goes_on(engine: Engine, tmp_path: Path) -> None:
    plain = finished(engine.run(ask(**SHORT), "5b")).video
    good = write(tmp_path / "good.safetensors", known(engine))
    wide = {MODULES[0]: (torch.zeros(4, 3072), torch.zeros(3072, 4))}
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(good.read_bytes()[:-100])
    pickled = tmp_path / "code.pt"
    torch.save({"x": torch.zeros(1)}, pickled)
    for lora, match in (
        (Lora(str(write(tmp_path / "wide.safetensors", wide))), r"3072 channels \(CogVideoX-5B or 1.5-5B\)"),
        (Lora(str(torn)), "torn.safetensors: cannot be read: torn"),
        (
            Lora(str(pickled)),
            r"code.pt: a LoRA must be a \.safetensors file, this is a pickle .*`cogvideox lora add`",
        ),
        (Lora(str(tmp_path / "absent.safetensors")), "absent.safetensors: cannot be read"),
        (Lora(str(good), sha256="0" * 64), "its SHA-256 is .*, asked for was 000"),
        (Lora(str(good), 11.0), "between -10 and 10"),
        (Lora(str(good), float("nan")), "between -10 and 10"),
    ):
        with pytest.raises(RequestError, match=match) as e:
            finished(engine.run(ask(**SHORT, loras=(Lora(str(good)), lora)), "5b"))
        assert e.value.field == "loras"
        assert str(tmp_path) not in e.value.message
    with pytest.raises(RequestError, match="at most 8"):
        finished(engine.run(ask(**SHORT, loras=(Lora(str(good)),) * 40), "5b"))
    assert finished(engine.run(ask(**SHORT), "5b")).video == plain


def test_adapters_are_kept_by_hash_and_the_least_recently_used_goes(engine: Engine, tmp_path: Path) -> None:
    transformer = engine.loader.load(engine.models["5b"], "5b").transformer
    paths = [write(tmp_path / f"{n}.safetensors", draw(transformer, seed=n)) for n in range(3)]
    size = 8 * 2 * RANK * 32 * 4  # modules, halves, rank, width, bytes of float32
    kept = Adapters(room=2 * size)
    first, second, _ = found = [kept.get(Lora(str(path)), "5b", transformer) for path in paths]
    assert [adapter.bytes for adapter in found] == [size] * 3
    assert kept.bytes == 2 * size
    assert kept.get(Lora(str(paths[1])), "5b", transformer) is second
    again = kept.get(Lora(str(paths[0])), "5b", transformer)
    assert again is not first  # the first adapter was evicted
    # the third adapter was evicted instead of the second
    assert kept.get(Lora(str(paths[1])), "5b", transformer) is second
    assert kept.get(Lora(str(paths[1])), "another", transformer) is not second
    paths[1].write_bytes(paths[2].read_bytes())
    changed = kept.get(Lora(str(paths[1])), "5b", transformer)
    assert torch.equal(changed.tensors[MODULES[0]]["lora_A.weight"], found[2].tensors[MODULES[0]]["lora_A.weight"])
    assert Adapters(room=1).get(Lora(str(paths[0])), "5b", transformer).bytes == size


def test_their_memory_counts_when_the_profile_is_chosen(engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    seen: list[int] = []
    from pipelines.engine import memory

    choose = memory.choose
    monkeypatch.setattr(memory, "choose", lambda *a: (seen.append(a[3].transformer), choose(*a))[1])
    path = write(tmp_path / "style.safetensors", known(engine))
    for loras in ((), (Lora(str(path)),), (Lora(str(path)), Lora(str(path), 0.5))):
        finished(engine.run(ask(**SHORT, loras=loras), "5b"))
    size = 8 * 2 * RANK * 32 * 4
    assert [one - seen[0] for one in seen] == [0, size, 2 * size]


@pytest.mark.parametrize("memory", ["model", "group", "sequential"])
@pytest.mark.parametrize("kinds", ["LoRA", "DoRA, LoHa, LoKr"])
def test_offloaded_models_take_them_too(engine: Engine, tmp_path: Path, memory: Any, kinds: str) -> None:
    path = write(tmp_path / "style.safetensors", known(engine), "kohya")
    if kinds != "LoRA":
        of_kinds(engine.loader.load(engine.models["5b"], "5b").transformer, path)
    request = ask(**SHORT, loras=(Lora(str(path), 0.5),))
    offloading = new_engine(memory=memory)
    wanted, _ = made(engine, request)
    for _ in range(2):
        latents, _ = made(offloading, request)
        assert torch.equal(latents, wanted)
        assert torch.equal(made(offloading, ask(**SHORT))[0], made(engine, ask(**SHORT))[0])
    assert not torch.equal(wanted, made(engine, ask(**SHORT))[0])


def test_two_of_one_name_both_act_and_are_told_apart(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = write(tmp_path / "style.safetensors", known(engine))
    two = write(tmp_path / "other" / "style.safetensors", known(engine, seed=6))

    def latents(*loras: Lora) -> Tensor:
        return made(engine, ask(**SHORT, loras=loras))[0]

    assert torch.allclose(latents(Lora(str(one), 0.3), Lora(str(one), 0.4)), latents(Lora(str(one), 0.7)), atol=1e-4)
    assert not torch.allclose(latents(Lora(str(one), 0.3), Lora(str(two), 0.4)), latents(Lora(str(one), 0.7)), atol=0.1)
    loras = (Lora(str(one), 0.3), Lora(str(two), 0.0, alpha=9.0))
    said = [e.message for e in engine.run(ask(**SHORT, loras=loras), "5b") if isinstance(e, Log)]
    assert any(line.startswith("lora style.safetensors (number 1): scale 0.3, rank 4") for line in said)
    assert any(
        line.startswith("lora style.safetensors (number 2): scale 0, ") and "does nothing" in line for line in said
    )
    assert (
        any("(number 2): alpha 9 of the request" in line for line in said) is False
    )  # the file has no alpha of its own
    two.write_bytes(one.read_bytes()[:-9])
    with pytest.raises(RequestError, match=r"style.safetensors \(number 2\): cannot be read: torn"):
        finished(engine.run(ask(**SHORT, loras=loras), "5b"))


def test_nan_is_put_to_what_it_comes_from(engine: Engine, tmp_path: Path) -> None:
    pairs = known(engine)
    pairs[MODULES[3]][0][0, 0] = float("nan")
    path = write(tmp_path / "broken.safetensors", pairs)
    with pytest.raises(
        RequestError, match=rf"broken.safetensors: transformer.{MODULES[3]}.lora_A.weight: it holds NaN"
    ):
        finished(engine.run(ask(**SHORT, loras=(Lora(str(path)),)), "5b"))
    huge = {name: (down * 1e30, up * 1e30) for name, (down, up) in known(engine).items()}
    path = write(tmp_path / "huge.safetensors", huge)
    match = r"NaN: it ran with huge.safetensors at scale 2, alpha 8 \(from request\), rank 4; try a smaller scale"
    with pytest.raises(GenerationError, match=match):
        finished(engine.run(ask(**SHORT, loras=(Lora(str(path), 2.0, alpha=8.0),)), "5b"))
    transformer = engine.loader.load(engine.models["5b"], "5b").transformer.to(torch.float16)
    try:
        path = write(tmp_path / "wide.safetensors", {name: (d * 1e6, u) for name, (d, u) in known(engine).items()})
        with pytest.raises(ValueError, match=r"lora_A.weight: it holds numbers too large for float16"):
            read_adapter(transformer, path)
    finally:
        transformer.float()


def test_an_alpha_of_the_request_that_does_not_count_is_said(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "style.safetensors", known(engine), ss_network_alpha="4")
    events = list(engine.run(ask(**SHORT, loras=(Lora(str(path), alpha=9.0),)), "5b"))
    said = [e.message for e in events if isinstance(e, Log) and e.level == "WARN"]
    assert said == ["lora style.safetensors: alpha 9 of the request is not used: alpha is known from metadata"]


def test_a_part_for_the_text_encoder_is_a_note_or_refused_when_strict(engine: Engine, tmp_path: Path) -> None:
    extra = {f"lora_te_encoder_block_0.lora_{half}.weight": torch.ones(4, 4) for half in ("down", "up")}
    request = ask(**SHORT, loras=(Lora(str(write(tmp_path / "both.safetensors", known(engine), extra=extra))),))
    without = replace(request, loras=(Lora(str(write(tmp_path / "one.safetensors", known(engine)))),))
    note = "both.safetensors -> its part for the transformer (its part for the text encoder (1 layer) cannot be applied"
    assert any(note in one for one in finished(engine.run(request, "5b")).manifest["notes"])
    assert torch.equal(made(engine, request)[0], made(engine, without)[0])
    with pytest.raises(RequestError, match=r"both.safetensors is not possible as asked: its part for the text encoder"):
        finished(engine.run(replace(request, strict=True, num_frames=9), "5b"))
