"""An unusable LoRA file is refused without attaching anything, and the message names the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.lora.adapters import load_lora
from tests.rigs.loras import MODULES, draw, run, tiny, write


def refused(net: Any, path: Path, match: str, scale: float = 1.0, name: str = "a") -> None:
    before = run(net)
    with pytest.raises(ValueError, match=match):
        load_lora(net, path, scale, name)
    assert torch.equal(run(net), before)


def test_pickles_and_torn_files(tmp_path: Path) -> None:
    net = tiny()
    for suffix in ("bin", "pt", "ckpt", "pkl", "pth"):
        path = tmp_path / f"a.{suffix}"
        torch.save({}, path)
        refused(net, path, "must be a .safetensors")
    (tmp_path / "torn.safetensors").write_bytes(write(tmp_path / "a.safetensors", draw(net)).read_bytes()[:-9])
    refused(net, tmp_path / "torn.safetensors", "cannot be read: torn")
    torch.save({}, tmp_path / "pickle.safetensors")
    refused(net, tmp_path / "pickle.safetensors", "cannot be read")
    refused(net, tmp_path / "absent.safetensors", "cannot be read")


def test_a_lora_of_another_size_names_both(tmp_path: Path) -> None:
    net, wider = tiny(), tiny(heads=4)
    refused(net, write(tmp_path / "a.safetensors", draw(wider)), "64 -> 64 channels, the transformer has 32 -> 32")
    made_for_2b = {MODULES[0]: (torch.zeros(4, 1920), torch.zeros(1920, 4))}
    refused(
        net, write(tmp_path / "b.safetensors", made_for_2b), r"1920 channels \(CogVideoX-2B\), the transformer has 32"
    )


def test_files_that_are_no_lora_for_this(tmp_path: Path) -> None:
    net = tiny()
    down, up = draw(net)[MODULES[0]]
    key = f"transformer.{MODULES[0]}"
    cases: dict[str, dict[str, Tensor]] = {
        "nothing for this transformer; it holds blocks": {"blocks.0.lora_A.weight": down, "blocks.0.lora_B.weight": up},
        "nothing for this transformer; it holds weight": {"weight": down},
        r"for Stable Diffusion \(a UNet\), .* nothing for this transformer; it holds lora_unet": {
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": up
        },
        "only half": {f"{key}.lora_A.weight": down},
        "twice": {f"{key}.lora_A.weight": down, f"{MODULES[0]}.lora_down.weight": down.clone()},
        "differ in rank": {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up[:, :2].contiguous()},
        "must be floating-point matrices, not I32": {
            f"{key}.lora_A.weight": down.int(),
            f"{key}.lora_B.weight": up.int(),
        },
    }
    for match, tensors in cases.items():
        save_file(tensors, tmp_path / "a.safetensors")
        refused(net, tmp_path / "a.safetensors", match)
    save_file({}, tmp_path / "a.safetensors")
    refused(net, tmp_path / "a.safetensors", "it holds nothing")


def test_a_file_of_which_only_some_fits_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    net = tiny()
    down, up = draw(net)[MODULES[0]]
    strange: dict[str, Tensor] = {
        "image_encoder.layers.0.q.lora_A.weight": down,
        "image_encoder.layers.0.q.lora_B.weight": up,
    }
    for extra, match in (
        (strange, "only 8 of 9 modules fit; not of this transformer: image_encoder.layers.0.q"),
        (
            {"transformer.proj_out.bias": up},
            "all of its 8 modules fit, but it holds more, not of this transformer: transformer.p",
        ),
        ({"transformer.transformer_blocks.0.attn1.to_x.alpha": up[0, 0].clone()}, "transformer_blocks.0.attn1.to_x"),
    ):
        path = write(tmp_path / "a.safetensors", draw(net), extra=extra)
        refused(net, path, match)
        refused(net, path, r"Expected: lora_A and lora_B, .* transformer_blocks.0.attn1.to_q, .* up to block 1, ")
    deeper = {name.replace("blocks.1", "blocks.2"): pair for name, pair in draw(net).items()}
    refused(net, write(tmp_path / "b.safetensors", deeper), "only 4 of 8 modules fit; .*transformer_blocks.2")


def test_calls_that_make_no_sense(tmp_path: Path) -> None:
    net = tiny()
    path = write(tmp_path / "a.safetensors", draw(net))
    refused(net, path, "without dots", name="a.b")
    refused(net, path, "without dots", name="")
    refused(net, path, "must be a number", scale=float("nan"))
    refused(net, write(tmp_path / "b.safetensors", draw(net), ss_network_alpha="many"), "not a number")
    refused(net, write(tmp_path / "b.safetensors", draw(net), ss_network_alpha="nan"), "not a number")
    alphas = {f"transformer.{m}.alpha": torch.ones(2) for m in MODULES}
    refused(net, write(tmp_path / "b.safetensors", draw(net), extra=alphas), "not one floating number")
    refused(net, write(tmp_path / "b.safetensors", draw(net), lora_adapter_metadata="[1]"), "not a PEFT configuration")
    load_lora(net, path, 1.0, "a")
    refused(net, path, "loaded already")
    fused = tiny()
    fused.fuse_qkv_projections()
    refused(fused, path, "fused")


def test_a_failure_midway_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny()
    path = write(tmp_path / "a.safetensors", draw(net))
    modules = dict(net.named_modules())
    with monkeypatch.context() as m:
        m.setattr("pipelines.lora.adapters._activate", lambda *_: 1 / 0)
        refused(net, path, "could not be attached")
        assert dict(net.named_modules()) == modules
    load_lora(net, path, 1.0, "a")
    with monkeypatch.context() as m:
        m.setattr("pipelines.lora.adapters._activate", lambda *_: 1 / 0)
        refused(net, path, "could not be attached", name="b")
