"""LoRAs in every layout have the effect of W + scale x alpha / rank x B A; the tests change weights by hand and
compare."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from torch import nn

from pipelines.lora.adapters import LoadedLora, load_lora, unload
from pipelines.lora.file import NOWHERE
from tests.rigs.loras import LAYOUTS, MODULES, RANK, by_hand, close, draw, of_kinds, run, tiny, write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_acts_as_the_formula_says(tmp_path: Path, layout: str) -> None:
    net = tiny()
    plain, pairs = run(net), draw(net)
    wanted = by_hand(net, pairs, 0.7)
    loaded = load_lora(net, write(tmp_path / "a.safetensors", pairs, layout), 0.7, "a")
    assert loaded == LoadedLora("a", 0.7, len(MODULES), RANK, RANK, NOWHERE, loaded.layout)
    assert (wanted - plain).abs().max() > 0.01
    assert close(run(net), wanted)


@pytest.mark.parametrize("layout", ["VideoX-Fun", "kohya", "diffusers", "down up"])
def test_alpha_tensors(tmp_path: Path, layout: str) -> None:
    net = tiny()
    pairs = draw(net)
    alphas = {m: float(k + 1) for k, m in enumerate(MODULES)}
    extra = {LAYOUTS[layout](m)[0].split(".lora_")[0] + ".alpha": torch.tensor(a) for m, a in alphas.items()}
    wanted = by_hand(net, pairs, lambda m: 0.5 * alphas[m] / RANK)
    loaded = load_lora(net, write(tmp_path / "a.safetensors", pairs, layout, extra), 0.5, "a")
    assert (loaded.alpha_source, loaded.alpha) == ("alpha tensors", None)
    assert close(run(net), wanted)


def test_trust_goes_sidecar_metadata_config_tensors_request(tmp_path: Path) -> None:
    net = tiny()
    pairs = draw(net)
    tensors = {f"transformer.{m}.alpha": torch.tensor(1.0) for m in MODULES}
    own = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 8})
    path = tmp_path / "a.safetensors"
    config = tmp_path / "adapter_config.json"

    def loaded(alpha: float, source: str) -> None:
        wanted = by_hand(net, pairs, alpha / RANK)
        result = load_lora(net, path, 1.0, "a", alpha=3)
        assert (result.alpha, result.alpha_source) == (alpha, source)
        assert close(run(net), wanted)
        unload(net)

    write(path, pairs, extra=tensors)
    loaded(1, "alpha tensors")
    config.write_text(json.dumps({"r": RANK, "lora_alpha": 2}))
    loaded(2, "adapter_config.json")
    write(path, pairs, extra=tensors, ss_network_alpha="16")
    loaded(16, "metadata")
    write(path, pairs, extra=tensors, lora_adapter_metadata=own, ss_network_alpha="16")
    loaded(8, "metadata")
    beside = tmp_path / "a.safetensors.json"
    beside.write_text(json.dumps({"alpha": 6, "origin": "somewhere"}))
    loaded(6, "sidecar")
    beside.write_text(json.dumps({"origin": "somewhere"}))
    loaded(8, "metadata")
    write(path, pairs)
    config.write_text("{}")
    loaded(3, "request")
    config.write_text("nonsense")
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        load_lora(net, path, 1.0, "a")


def test_patterns_and_rank_stabilised_alpha(tmp_path: Path) -> None:
    net = tiny()
    pairs = draw(net, ranks=(4, 2, 8))
    config = {"lora_alpha": 8, "alpha_pattern": {"^transformer_blocks.1.attn1.to_q": 3, "to_k": 5}, "use_rslora": True}

    def factor(module: str) -> float:
        alpha = 3 if module == "transformer_blocks.1.attn1.to_q" else 5 if module.endswith("to_k") else 8
        return alpha / math.sqrt(len(pairs[module][0]))

    wanted = by_hand(net, pairs, factor)
    path = write(tmp_path / "a.safetensors", pairs, lora_adapter_metadata=json.dumps(config))
    loaded = load_lora(net, path, 1.0, "a")
    assert (loaded.rank, loaded.alpha) == (None, None)
    assert close(run(net), wanted)


def test_different_ranks_without_alpha_have_factor_one(tmp_path: Path) -> None:
    net = tiny()
    pairs = draw(net, ranks=(4, 2, 8))
    wanted = by_hand(net, pairs, 1.0)
    load_lora(net, write(tmp_path / "a.safetensors", pairs), 1.0, "a")
    assert close(run(net), wanted)


def test_all_kinds_of_layers(tmp_path: Path) -> None:
    net = tiny()
    modules = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert {"patch_embed.proj", "proj_out", "transformer_blocks.0.ff.net.0.proj"} <= set(modules)
    pairs = draw(net, modules)
    wanted = by_hand(net, pairs, 0.5)
    load_lora(net, write(tmp_path / "a.safetensors", pairs), 0.5, "a")
    assert close(run(net), wanted)


def test_what_diffusers_saves_comes_back(tmp_path: Path) -> None:
    from peft import LoraConfig

    net = tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    trained = run(net)
    net.save_lora_adapter(tmp_path, adapter_name="default", weight_name="own.safetensors")
    again = tiny()
    loaded = load_lora(again, tmp_path / "own.safetensors", 1.0, "a")
    assert (loaded.alpha, loaded.alpha_source) == (2, "metadata")
    assert close(run(again), trained)


def test_two_at_once_keep_their_own_strengths(tmp_path: Path) -> None:
    net = tiny()
    one = draw(net, seed=5)
    two = draw(net, modules=[*MODULES[2:6], "proj_out"], seed=6, ranks=(2,))
    both = copy.deepcopy(net)
    with torch.no_grad():
        for pairs, factor in ((one, 0.5), (two, -0.8)):
            for name, (down, up) in pairs.items():
                both.get_submodule(name).weight += factor * up @ down
    load_lora(net, write(tmp_path / "1.safetensors", one), 0.5, "first")
    load_lora(net, write(tmp_path / "2.safetensors", two, "VideoX-Fun"), -0.8, "second")
    assert close(run(net), run(both))


def test_scale_nought_does_nothing(tmp_path: Path) -> None:
    net = tiny()
    plain = run(net)
    load_lora(net, write(tmp_path / "a.safetensors", draw(net)), 0.0, "a")
    assert torch.equal(run(net), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unload_gives_the_plain_network_back(tmp_path: Path, dtype: torch.dtype) -> None:
    net = tiny().to(dtype)
    modules = dict(net.named_modules())
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    pairs = draw(net)
    unload(net)  # nothing to do
    for _ in range(2):
        load_lora(net, write(tmp_path / "a.safetensors", pairs), 1.3, "a")
        load_lora(net, write(tmp_path / "b.safetensors", pairs), 0.3, "b")
        unload(net)
        assert dict(net.named_modules()) == modules
        assert all(type(m) is not nn.Linear or m is modules[n] for n, m in net.named_modules())
        after = net.state_dict()
        assert list(after) == list(weights)
        assert all(torch.equal(after[k], v) for k, v in weights.items())
    if dtype == torch.float32:
        assert torch.equal(run(net), run(tiny()))


def test_adapters_compute_in_the_transformers_dtype_and_draw_no_random_numbers(tmp_path: Path) -> None:
    net = tiny().to(torch.bfloat16)
    state = torch.random.get_rng_state()
    load_lora(net, write(tmp_path / "a.safetensors", draw(net)), 1.0, "a")
    load_lora(net, of_kinds(net, tmp_path / "b.safetensors"), 1.0, "b")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {p.dtype for n, p in net.named_parameters() if re.search("lora_|hada_|lokr_", n)} == {torch.bfloat16}
    assert torch.isfinite(run(net, torch.bfloat16)).all()


def test_a_pipeline_will_do(tmp_path: Path) -> None:
    net = tiny()
    pairs = draw(net)
    wanted = by_hand(net, pairs, 1.0)
    pipeline = CogVideoXPipeline(None, None, None, net, CogVideoXDDIMScheduler())
    load_lora(pipeline, write(tmp_path / "a.safetensors", pairs), 1.0, "a")
    assert close(run(net), wanted)
    unload(pipeline)
    assert not any("lora" in n for n, _ in net.named_parameters())
