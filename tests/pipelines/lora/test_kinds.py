"""Adapters other than plain LoRA: DoRA, biases, LoHa, LoKr, with PEFT's and LyCORIS's tensor names."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from pipelines.lora import file as lora_file
from pipelines.lora.adapters import load_lora, read_adapter, unload
from tests.rigs.loras import (
    MODULES,
    Made,
    Tensors,
    close,
    draw,
    drawn,
    kohya,
    loha,
    loha_with_cores,
    lokr,
    run,
    tiny,
    write,
)

MATRIX, CONVOLUTION = "transformer_blocks.0.ff.net.0.proj", "patch_embed.proj"  # [128, 32] and [32, 4, 2, 2]

KINDS: dict[str, tuple[str, Callable[[Tensor], Made], int]] = {
    "LoHa": (MATRIX, loha, 3),
    "LoHa of a convolution": (CONVOLUTION, loha, 3),
    "LoHa with cores": (CONVOLUTION, loha_with_cores, 3),
    "LoKr": (MATRIX, lambda w: lokr(w, 3), 3),
    "LoKr of four": (MATRIX, lambda w: lokr(w, 3, both=True), 3),
    "LoKr of whole matrices": (MATRIX, lambda w: lokr(w, None), 1),
    "LoKr of a convolution": (CONVOLUTION, lambda w: lokr(w, 3), 3),
    "LoKr of a whole convolution": (CONVOLUTION, lambda w: lokr(w, None), 1),
}
NAMES: dict[str, Callable[[str, str], str]] = {
    "LyCORIS": lambda module, what: f"{kohya(module, 'lycoris_')}.{what}",
    "kohya": lambda module, what: f"{kohya(module)}.{what}",
    "PEFT": lambda module, what: f"base_model.model.{module}.{what}",
    "dump of a compiled network": lambda module, what: f"transformer._orig_mod.{module}.{what}.default",
}


def with_difference(net: Any, module: str, difference: Tensor) -> Tensor:
    changed = copy.deepcopy(net)
    with torch.no_grad():
        changed.get_submodule(module).weight += difference
    return run(changed)


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_loha_and_lokr_act_as_their_formulas_say(tmp_path: Path, kind: str, names: str) -> None:
    net = tiny()
    module, make, rank = KINDS[kind]
    named, difference = make(net.get_submodule(module).weight)
    plain = run(net)
    path = tmp_path / "a.safetensors"
    save_file({NAMES[names](module, what): t for what, t in named.items()}, path)
    loaded = load_lora(net, path, 0.5, "a")
    assert (loaded.modules, loaded.rank) == (1, rank)
    assert close(run(net), with_difference(tiny(), module, 0.5 * difference))
    assert not close(run(net), plain)
    unload(net)
    assert torch.equal(run(net), plain)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoKr of whole matrices"])
def test_alpha_scales_them_unless_they_have_no_rank(tmp_path: Path, kind: str) -> None:
    net = tiny()
    module, make, rank = KINDS[kind]
    named, difference = make(net.get_submodule(module).weight)
    factor = 1.0 if "whole" in kind else 6 / rank
    tensors = {f"{kohya(module, 'lycoris_')}.{what}": t for what, t in (named | {"alpha": torch.tensor(6.0)}).items()}
    wanted = with_difference(net, module, factor * difference)
    for extra in ({}, {"ss_network_alpha": "6"}):
        save_file(tensors, tmp_path / "a.safetensors", metadata=extra)
        load_lora(net, tmp_path / "a.safetensors", 1.0, "a")
        assert close(run(net), wanted)
        unload(net)


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=4, alpha=6, target_modules=MODULES, init_weights=False),
        LoKrConfig(r=4, alpha=6, target_modules=MODULES, init_weights=False, decompose_both=True),
        LoKrConfig(r=64, alpha=6, target_modules=MODULES, init_weights=False, rank_pattern={"to_k": 2}),  # unfactored
        LoraConfig(r=4, lora_alpha=6, target_modules=MODULES, init_lora_weights=False, use_dora=True),
        LoraConfig(r=4, lora_alpha=6, target_modules=MODULES, init_lora_weights=False, lora_bias=True),
        LoraConfig(r=4, lora_alpha=6, target_modules=[CONVOLUTION], init_lora_weights=False, use_dora=True),
    ],
    ids=["LoHa", "LoKr", "LoKr whole", "DoRA", "bias", "DoRA of a convolution"],
)
def test_what_peft_saves_comes_back_bit_for_bit(tmp_path: Path, config: Any) -> None:
    trained = tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trained.add_adapter(config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "magnitude" in name or (name.endswith("bias") and "lora_B" in name):
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    path = tmp_path / "a.safetensors"
    saved = get_peft_model_state_dict(trained, state_dict=trained.state_dict())
    save_file({f"base_model.model.{k}": v.contiguous() for k, v in saved.items()}, path)
    said = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    net = tiny()
    loaded = load_lora(net, path, 1.0, "a")
    assert loaded.alpha_source == "adapter_config.json"
    assert not close(run(net), run(tiny()))
    assert torch.equal(run(net), run(trained))


def dora(net: Any, module: str, scale: float, pair: tuple[Tensor, Tensor], magnitude: Tensor) -> Tensor:
    """W' = m (W + s B A) / |W + s B A|, with the norm of each output's row: arXiv 2402.09353."""
    changed = copy.deepcopy(net)
    weight = changed.get_submodule(module).weight
    with torch.no_grad():
        new = weight + scale * (pair[1].flatten(1) @ pair[0].flatten(1)).view(weight.shape)
        length = new.flatten(1).norm(dim=1)
        weight.copy_((magnitude.flatten() / length).view(-1, *(1 for _ in weight.shape[1:])) * new)
    return run(changed)


@pytest.mark.parametrize("module", [MATRIX, CONVOLUTION])
def test_dora_of_kohya(tmp_path: Path, module: str) -> None:
    net = tiny()
    pair = draw(net, [module])[module]
    weight = net.get_submodule(module).weight
    magnitude = 1.2 * weight.detach().flatten(1).norm(dim=1).view(-1, *(1 for _ in weight.shape[1:]))
    key = kohya(module)
    extra = {f"{key}.dora_scale": magnitude, f"{key}.alpha": torch.tensor(2.0)}
    path = write(tmp_path / "a.safetensors", {module: pair}, "kohya", extra=extra)
    with pytest.raises(ValueError, match="it holds only half of"):
        load_lora(net, write(tmp_path / "b.safetensors", {}, extra=extra), 1.0, "a")
    loaded = load_lora(net, path, 1.0, "a")
    assert loaded.alpha == 2
    assert close(run(net), dora(tiny(), module, 2.0 / 4, pair, magnitude))


def test_dora_with_scale_nought_does_nothing(tmp_path: Path) -> None:
    net = tiny()
    pairs = draw(net, [MATRIX])
    path = write(
        tmp_path / "a.safetensors", pairs, extra={f"transformer.{MATRIX}.lora_magnitude_vector": torch.ones(128)}
    )
    plain = run(net)
    load_lora(net, path, 0.0, "a")
    assert torch.equal(run(net), plain)
    load_lora(net, path, 1.0, "b")
    assert not torch.equal(run(net), plain)


def test_one_file_of_all_kinds_beside_another(tmp_path: Path) -> None:
    """Adapters of different kinds on the same layers, in any order; unloading restores the network."""
    net = tiny()
    plain, modules = run(net), dict(net.named_modules())
    tensors: Tensors = {}
    wanted = copy.deepcopy(net)
    for number, (module, made) in enumerate(
        zip(MODULES[:3], (loha(drawn(32, 32)), lokr(drawn(32, 32), 2), lokr(drawn(32, 32), None)), strict=True)
    ):
        tensors |= {f"transformer.{module}.{what}": t for what, t in made[0].items()}
        with torch.no_grad():
            wanted.get_submodule(module).weight += (0.4 - 0.7) * made[1] if number < 3 else 0
    pairs = draw(net)
    mixed = {name: pairs[name] for name in MODULES[3:]}
    with torch.no_grad():
        for name, (down, up) in mixed.items():
            wanted.get_submodule(name).weight += (0.4 - 0.7) * up @ down
        for name, (down, up) in pairs.items():
            wanted.get_submodule(name).weight += 2 * 0.9 * up @ down
    one, two = write(tmp_path / "1.safetensors", mixed, extra=tensors), write(tmp_path / "2.safetensors", pairs)
    for order in ((0, 1, 2, 3), (2, 0, 3, 1)):
        for n in order:
            load_lora(net, (one, one, two, two)[n], (0.4, -0.7, 0.9, 0.9)[n], f"lora{n}")
        assert close(run(net), run(wanted))
        unload(net)
        assert dict(net.named_modules()) == modules
        assert torch.equal(run(net), plain)


def half(**given: Tensor) -> Tensors:
    return {f"transformer.{MODULES[0]}.{what}": t for what, t in given.items()}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (half(hada_w1_a=drawn(32, 2)), "half a LoHa; hada_w1_b, hada_w2_a, hada_w2_b missing"),
        (half(lokr_w1=drawn(4, 4)), "half a LoKr; it needs lokr_w2, or lokr_w2_a and lokr_w2_b"),
        (half(lokr_w1=drawn(4, 4), lokr_w2_a=drawn(8, 2)), "half a LoKr"),
        (half(lokr_w1=drawn(4, 4), lokr_w2=drawn(16, 16)), "64 -> 64 channels, the transformer has 32 -> 32"),
        (half(lokr_w1=drawn(4), lokr_w2=drawn(8, 8)), "the shapes of its LoKr contradict each other"),
        (half(lokr_w1=drawn(4, 4), lokr_w2=drawn(8, 8), dora_scale=drawn(32, 1)), "DoRA on LoKr, which is not"),
        (half(lokr_w1=drawn(4, 4), lokr_w2=drawn(8, 8), hada_w1_a=drawn(32, 1)), "two kinds for one layer"),
        (half(lora_magnitude_vector=drawn(32)), "only half of .*to_q: lora_"),
        ({f"{kohya(MATRIX)}.lora_down.weight": drawn(4, 32), f"{kohya(MATRIX)}.lora_up.weight": drawn(128, 4),
          f"{kohya(MATRIX)}.dora_scale": drawn(1, 32)}, r"shape \[1, 32\], not one for each of 128 outputs"),
        (half(diff=drawn(32, 32), diff_b=drawn(32)), r"whole weights \(\.diff\), which is not"),
        (half(**{"oft_R.weight": drawn(32)}), "OFT, which is not supported"),
        (half(ia3_l=drawn(32)), r"\(IA\)3, which is not supported"),
        (half(lora_A=drawn(32), lora_E=drawn(32)), "AdaLoRA, which is not supported"),
        ({"blocks.0.self_attn.q.lokr_w1": drawn(4, 4)}, "for Wan, not for CogVideoX; it holds nothing for"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": drawn(4, 4)}, "for Flux or HunyuanVideo, not"),
        ({"transformer.transformer_blocks.0.attn2.to_q.lora_A.weight": drawn(4, 4)}, "for LTX-Video, PixArt or Sana"),
        ({"transformer.layers.0.attention.query_key_value.matrix_A.0": drawn(4, 4)}, "as the SAT trainer saves it"),
    ],
)  # fmt: skip
def test_what_is_no_whole_adapter_or_of_another_kind_is_named(tmp_path: Path, tensors: Tensors, match: str) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    net = tiny()
    plain = run(net)
    with pytest.raises(ValueError, match=match):
        load_lora(net, tmp_path / "a.safetensors", 1.0, "a")
    assert torch.equal(run(net), plain)


@pytest.mark.parametrize("prefix", ["text_encoder.encoder.block.0.layer.0.SelfAttention.q", "lora_te1_text_model_q"])
def test_a_part_for_the_text_encoder_is_left_aside_and_named(tmp_path: Path, prefix: str) -> None:
    extra = {f"{prefix}.{half}.weight": drawn(4, 4) for half in ("lora_A", "lora_B")}
    net = tiny()
    pairs = draw(net)
    found = read_adapter(net, write(tmp_path / "a.safetensors", pairs, extra=extra))
    (said,) = lora_file.doubts(found.match, found.alpha())
    assert said == "its part for the text encoder (1 layer) is not applied; the transformer's part is"
    save_file(extra, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"for the text encoder only \(1 layer of it\), to which LoRAs are not"):
        read_adapter(net, tmp_path / "b.safetensors")
