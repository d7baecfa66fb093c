"""Files mistaken for checkpoints: each kind is recognised, and the message names the next step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from server.cli import weights as cli
from tests.rigs import checkpoints
from tests.rigs.hub_cache import hub_cache


def refused(source: Path, models: Path, *more: str) -> str:
    done = CliRunner().invoke(cli.app, ["import", str(source), *more], env={"COGVIDEOX_MODELS_DIR": str(models)})
    assert (done.exit_code, done.stdout) == (2, ""), done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert "RIFE" not in done.stderr
    return done.stderr


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 100)
    return folder


def pickled(file: Path) -> Path:
    torch.save({"transformer_blocks.0.attn1.to_q.weight": torch.zeros(2)}, file)
    return file


def gguf(file: Path) -> Path:
    file.write_bytes(b"GGUF\3\0\0\0")
    return file.parent


def tensors(file: Path, *names: str) -> Path:
    save_file({name: torch.zeros(2) for name in names}, file)
    return file


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: touched(f, "cogvideox-Q4_K.gguf") / "cogvideox-Q4_K.gguf", ("GGUF", "weights pull")),
        (lambda f: touched(f, "cogvideox-Q4_K.gguf", "README.md"), ("cogvideox-Q4_K.gguf is a GGUF", "weights pull")),
        (
            lambda f: touched(f, "latest", "global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py"),
            ("DeepSpeed ZeRO", "zero_pp_rank_0", "python zero_to_fp32.py", "--safe_serialization", "--base"),
        ),
        (
            lambda f: touched(f, "pytorch_model/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "random_states_0.pkl"),
            ("DeepSpeed ZeRO", "bf16_zero_pp_rank_0"),
        ),
        (lambda f: touched(f, "latest"), ("DeepSpeed", "without weights")),
        (lambda f: touched(f, "1000/mp_rank_00_model_states.pt", "latest"), ("SAT", "convert_cogvideox_to_diffusers")),
        (
            lambda f: touched(f, "1/mp_rank_00_model_states.pt") / "1" / "mp_rank_00_model_states.pt",
            ("SAT", "convert_cogvideox_to_diffusers"),
        ),
        (
            lambda f: tensors(f / "pytorch_lora_weights.safetensors", "transformer.a.lora_A.weight").parent,
            ("LoRA", "cogvideox lora add"),
        ),
        (lambda f: tensors(f / "x.safetensors", "transformer.a.lora_A.weight"), ("LoRA", "cogvideox lora add")),
        (lambda f: tensors(f / "x.safetensors", "decoder.mid_block.resnets.0.conv1.conv.weight"), ("the vae",)),
        (lambda f: tensors(f / "x.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight"), ("text encoder",)),
        (lambda f: pickled(f / "pytorch_model.bin"), ("pickle", "save_pretrained", "weights import")),
        (lambda f: pickled(f / "transformer.pt"), ("pickle", "video model", "save_pretrained")),
        (
            lambda f: tensors(f / "wan.safetensors", "blocks.0.self_attn.q.weight", "head.head.weight"),
            ("blocks.0.self_attn.q.weight", "not a CogVideoX file", "a transformer in .safetensors"),
        ),
        (lambda f: touched(f, "a.zip") / "a.zip", ("not a known kind of weights", "a transformer in .safetensors")),
        (lambda f: gguf(f / "Q4_K") / "Q4_K", ("GGUF", "weights pull")),
        (lambda f: touched(f, "pytorch_model_fsdp_0/__0_0.distcp"), ("FSDP", "accelerate", "--base")),
        (lambda f: touched(f, "checkpoint-500/model.safetensors"), ("choose one of them", "/checkpoint-500")),
        (lambda f: touched(f, "mine/model_index.json"), ("choose one of them", "/mine")),
        (lambda f: pickled(f / "model.pth").parent, ("pickle", "model.pth", "save_pretrained")),
    ],
)
def test_is_named_with_the_next_step(make: Callable[[Path], Path], said: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    message = refused(make(folder), tmp_path / "models")
    assert [word for word in said if word not in message] == [], message


def test_a_base_changes_nothing_about_what_a_folder_is(tmp_path: Path) -> None:
    flat = touched(tmp_path / "flat", "config.json")
    (flat / "config.json").write_text('{"_class_name": "CogVideoXTransformer3DModel"}')
    pickled(flat / "diffusion_pytorch_model.bin")
    for folder, said in (
        (flat, "contains pickled weights (diffusion_pytorch_model.bin)"),
        (touched(tmp_path / "zero", "zero_to_fp32.py"), "DeepSpeed ZeRO"),
        (touched(tmp_path / "empty"), "has no model_index.json"),
    ):
        folder.mkdir(exist_ok=True)
        assert said in refused(folder, tmp_path / "models", "--base", "cogvideox-5b")


def test_caches_of_the_hub(tmp_path: Path) -> None:
    hub, models = tmp_path / "hub", tmp_path / "models"
    touched(hub, "models--google--t5/refs/main", "version.txt")
    assert "without a CogVideoX model" in refused(tmp_path, models)
    cache = hub_cache(checkpoints.cached("5b"), hub / "models--me--holiday-tune")
    for given in (hub, tmp_path):
        message = refused(given, models)
        assert "with one CogVideoX model" in message and f"cogvideox weights import {cache}" in message
    second = hub_cache(checkpoints.cached("2b"), hub / "models--zai-org--CogVideoX-2b")
    message = refused(hub, models)
    assert "choose one of" in message and str(cache) in message and str(second) in message


def test_a_quantised_checkpoint_is_told_at_import(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints.cached("5b"), tmp_path / "given"))
    config = folder / "text_encoder" / "config.json"
    config.write_text('{"quantization_config": {"quant_method": "bitsandbytes"}, ' + config.read_text()[1:])
    message = refused(folder, tmp_path / "models")
    assert "text_encoder/config.json: its weights are quantised by bitsandbytes" in message
    assert "expected F32, F16 or BF16" in message and "cogvideox weights pull" in message
