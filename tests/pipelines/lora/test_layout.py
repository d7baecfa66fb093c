"""A transformer's layers from its config, and a LoRA's layout, base model and alpha from its header."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import save_file

from pipelines.lora import file as lora_file
from pipelines.lora import unpickle
from pipelines.lora.file import alpha_of, matched, read
from pipelines.lora.layout import LoraError, layers_of, match
from tests.rigs import checkpoints
from tests.rigs.loras import LAYOUTS, MODULES, draw, tiny, write
from weights.catalog import CATALOG


@pytest.mark.parametrize("kind", checkpoints.KINDS)
def test_layers_by_config_are_those_of_the_transformer(kind: checkpoints.Kind) -> None:
    folder = checkpoints.cached(kind) / "transformer"
    net = CogVideoXTransformer3DModel.from_pretrained(folder)
    real = {
        name: tuple(module.weight.shape)
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert layers_of(json.loads((folder / "config.json").read_text())) == real


def published(name: str) -> dict[str, tuple[int, ...]]:
    return layers_of({**CATALOG[name].configs["transformer"], "attention_head_dim": 64})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_base_is_told_by_shape(layout: str) -> None:
    """LoRAs for the published models, given by their shapes alone."""

    def shapes(name: str, rank: int = 128) -> dict[str, tuple[int, ...]]:
        out = {}
        for module, (high, wide) in ((m, s) for m, s in published(name).items() if ".attn1." in m):
            down, up = LAYOUTS[layout](module)
            out |= {down: (rank, wide), up: (high, rank)}
        return out

    small, large = shapes("cogvideox-2b"), shapes("cogvideox-5b")
    assert len(match(small, published("cogvideox-2b")).parts) == 30 * 4
    for name in ("cogvideox-5b", "cogvideox-5b-i2v", "cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v"):
        assert len(match(large, published(name)).parts) == 42 * 4
        with pytest.raises(LoraError, match=r"CogVideoX-2B\), the transformer has .*CogVideoX-5B or 1.5-5B"):
            match(small, published(name))
    with pytest.raises(LoraError, match=r"CogVideoX-5B or 1.5-5B\), the transformer has .*CogVideoX-2B"):
        match(large, published("cogvideox-2b"))


def test_what_the_patch_embedding_is_for_is_told() -> None:
    key = "transformer.patch_embed.proj.lora_{}.weight"

    def refused(of: str, on: str, words: str) -> None:
        high, *wide = published(of)["patch_embed.proj"]
        shapes = {key.format("A"): (4, *wide), key.format("B"): (high, 4, *(1 for _ in wide[1:]))}
        assert match(shapes, published(of)).parts["patch_embed.proj"].rank == 4
        with pytest.raises(LoraError, match=words):
            match(shapes, published(on))

    refused("cogvideox-5b-i2v", "cogvideox-5b", r"32 -> 3072 .*\(image-to-video\), .* 16 -> 3072 .*\(text-to-video\)")
    refused("cogvideox-5b", "cogvideox-5b-i2v", r"16 -> 3072 .*\(text-to-video\), .* 32 -> 3072 .*\(image-to-video\)")
    refused("cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v", r"128 -> 3072 .*\(text-to-video\), .*\(image-to-video\)")
    refused("cogvideox-5b", "cogvideox-1.5-5b", r"an older CogVideoX, \[3072, 16, 2, 2\], .* is 1.5's, \[3072, 128\]")
    refused(
        "cogvideox-1.5-5b", "cogvideox-5b", r"for CogVideoX 1.5, \[3072, 128\], .* is an older CogVideoX, \[3072, 16, 2"
    )


def test_layouts_have_names(tmp_path: Path) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    named = {}
    for layout in LAYOUTS:
        named[layout] = matched(read(write(tmp_path / "a.safetensors", draw(net), layout)), layers).layout
    assert named["diffusers"] == "transformer., lora_A/lora_B"
    assert named["bare"] == "no prefix, lora_A/lora_B"
    assert named["peft dump"] == "raw PEFT dump, lora_A/lora_B"
    assert named["VideoX-Fun"] == "lora_unet__, lora_down/lora_up (kohya, VideoX-Fun)"
    assert named["diffusion_model"].startswith("diffusion_model., ")
    assert named["peft"].startswith("base_model.model., ")
    assert named["sharded dump"] == "raw PEFT dump, lora_A/lora_B, wrapped names"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_alpha_tensors_are_read_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    alphas = {f"transformer.{m}.alpha": torch.tensor(0.5 + n, dtype=dtype) for n, m in enumerate(MODULES)}
    file = read(write(tmp_path / "a.safetensors", draw(net), extra=alphas))
    assert alpha_of(file, matched(file, layers)).values == {m: 0.5 + n for n, m in enumerate(MODULES)}


def test_an_alpha_that_kohya_did_not_know_is_none(tmp_path: Path) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    file = read(write(tmp_path / "a.safetensors", draw(net), ss_network_alpha="None"))
    assert alpha_of(file, matched(file, layers)).source == lora_file.NOWHERE


def test_an_alpha_of_nought_is_the_rank_as_in_kohyas_loader_and_elsewhere_is_said(tmp_path: Path) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    nought = {f"transformer.{m}.alpha": torch.tensor(0.0) for m in MODULES}
    for extra, meta in ((nought, {}), ({}, {"ss_network_alpha": "0.0"})):
        file = read(write(tmp_path / "a.safetensors", draw(net), extra=extra, **meta))
        assert alpha_of(file, matched(file, layers)).values == dict.fromkeys(MODULES, 4.0)
    file = read(write(tmp_path / "a.safetensors", draw(net), lora_adapter_metadata='{"lora_alpha": 0}'))
    alpha = alpha_of(file, found := matched(file, layers))
    assert lora_file.doubts(found, alpha) == ["alpha is 0 (from metadata), so that it does nothing"]


def test_patterns_that_are_no_names_are_refused_and_wrapped_ones_are_read(tmp_path: Path) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}

    def alphas(**patterns: object) -> dict[str, float]:
        config = json.dumps({"lora_alpha": 8, "alpha_pattern": patterns["said"]})
        file = read(write(tmp_path / "a.safetensors", draw(net), lora_adapter_metadata=config))
        return alpha_of(file, matched(file, layers)).values

    for pattern in (r"^_orig_mod\.transformer_blocks\.1\.attn1\.to_q$", f"transformer.{MODULES[4]}", MODULES[4]):
        assert alphas(said={pattern: 2}) == {m: 2 if m == MODULES[4] else 8 for m in MODULES}
    with pytest.raises(LoraError, match=r"its metadata holds a regular expression, '.*to_\[qk\]', .* --alpha NUMBER"):
        alphas(said={".*to_[qk]": 2})
    with pytest.raises(LoraError, match="to_q of alpha_pattern in its metadata is 'x', not a number"):
        alphas(said={"to_q": "x"})


def test_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for data in (b"", b"\x00" * 8, struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 2) + b"[]", b"<html></html>"):
        path.write_bytes(data)
        with pytest.raises(LoraError, match="cannot be read"):
            read(path)
    header = {"__metadata__": [1], "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    said = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + bytes(4))
    with pytest.raises(LoraError, match="its metadata is not an object"):
        read(path)
    with pytest.raises(LoraError, match="cannot be read"):
        read(tmp_path / "absent.safetensors")


def test_a_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = lora_file.digest(path)
    path.write_bytes(b"another")
    assert lora_file.digest(path) != before


def test_pickles_are_turned_into_safetensors_and_code_in_them_never_runs(tmp_path: Path) -> None:
    net = tiny()
    good = write(tmp_path / "good.safetensors", draw(net))
    from safetensors.torch import load_file

    tensors = load_file(good)
    torch.save({"state_dict": tensors}, tmp_path / "a.pt")
    unpickle.convert(tmp_path / "a.pt", tmp_path / "made.safetensors")
    made = load_file(tmp_path / "made.safetensors")
    assert made.keys() == tensors.keys()
    assert all(torch.equal(made[k], v) for k, v in tensors.items())
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> object:
            return (Path.touch, (ran,))

    torch.save({"x": Hostile()}, tmp_path / "b.pt")
    with pytest.raises(LoraError, match="not a pickle of plain tensors"):
        unpickle.convert(tmp_path / "b.pt", tmp_path / "not.safetensors")
    assert not ran.exists()
    assert not (tmp_path / "not.safetensors").exists()


def test_what_is_no_float_is_refused(tmp_path: Path) -> None:
    layers = {"proj": (4, 4)}
    save_file({"proj.lora_A.weight": torch.ones(2, 4).int(), "proj.lora_B.weight": torch.ones(4, 2).int()},
              tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(LoraError, match="must be floating-point matrices, not I32"):
        matched(read(tmp_path / "a.safetensors"), layers)
