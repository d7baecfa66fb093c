"""Importing a fine-tuned transformer alone, in every form that trainers save: the base supplies the other parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from server.cli import weights as cli
from tests.rigs import checkpoints
from tests.rigs.hub_cache import hub_cache
from weights import record
from weights.verify import verify

STEM = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, torch.Tensor]


def run(*words: str | Path, models: Path) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, words)), env={"COGVIDEOX_MODELS_DIR": str(models)})


@pytest.fixture(params=["5b", "1.5-5b-i2v"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint in the models folder."""
    return Path(shutil.copytree(checkpoints.cached(request.param, single_file=True), tmp_path / "models" / "mine"))


@pytest.fixture
def tuned(base: Path, tmp_path: Path) -> Path:
    """The folder `transformer/` alone; its weights differ from the base's weights."""
    folder = tmp_path / "my run"
    shutil.copytree(base / "transformer", folder / "transformer")
    file = folder / "transformer" / STEM
    save_file({name: t * 1.5 for name, t in load_file(file).items()}, file, {"format": "pt"})
    return folder


def original(tensors: Tensors) -> Tensors:
    """diffusers' tensors as the original repository stores them, together with the other tensors in its files."""
    found: Tensors = {"model.diffusion_model.mixins.pos_embed.freqs_sin": torch.zeros(3)}

    def put(name: str, value: torch.Tensor) -> None:
        found[f"model.diffusion_model.{name}"] = value.contiguous()

    names = {
        "norm_final": "transformer.final_layernorm",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "ofs_embedding.linear_1": "ofs_embed.0", "ofs_embedding.linear_2": "ofs_embed.2",
        "patch_embed.proj": "mixins.patch_embed.proj", "patch_embed.text_proj": "mixins.patch_embed.text_proj",
        "norm_out.norm": "mixins.final_layer.norm_final", "proj_out": "mixins.final_layer.linear",
        "norm_out.linear": "mixins.final_layer.adaLN_modulation.1",
    }  # fmt: skip
    blocks = {
        "attn1.to_out.0": "attention.dense", "ff.net.0.proj": "mlp.dense_h_to_4h", "ff.net.2": "mlp.dense_4h_to_h",
        "norm1.norm": "input_layernorm", "norm2.norm": "post_attention_layernorm",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        for ours, theirs in names.items():
            if f"{ours}.{kind}" in tensors:
                put(f"{theirs}.{kind}", tensors[f"{ours}.{kind}"])
        for number in range(2):
            block, layer = f"transformer_blocks.{number}", f"transformer.layers.{number}"
            for ours, theirs in blocks.items():
                put(f"{layer}.{theirs}.{kind}", tensors[f"{block}.{ours}.{kind}"])
            qkv = [tensors[f"{block}.attn1.to_{part}.{kind}"] for part in "qkv"]
            put(f"{layer}.attention.query_key_value.{kind}", torch.cat(qkv))
            first, second = (tensors[f"{block}.norm{n}.linear.{kind}"].chunk(6) for n in (1, 2))
            joined = torch.cat([*first[:3], *second[:3], *first[3:], *second[3:]])
            put(f"mixins.adaln_layer.adaLN_modulations.{number}.1.{kind}", joined)
            for part, word in (("q", "query"), ("k", "key")):
                norm = tensors[f"{block}.attn1.norm_{part}.{kind}"]
                put(f"mixins.adaln_layer.{word}_layernorm_list.{number}.{kind}", norm)
    return found | {"first_stage_model.decoder.conv_in.weight": torch.ones(2)}


def rewritten(tuned: Path, change: Callable[[Tensors], Tensors], *, config: bool) -> Path:
    """A single file with the changed tensors, beside the folder."""
    tensors = change(load_file(tuned / "transformer" / STEM))
    target = tuned.parent / "single" / "nice-tune.safetensors"
    target.parent.mkdir()
    save_file(tensors, target)
    if config:
        shutil.copyfile(tuned / "transformer" / "config.json", target.parent / "config.json")
    return target


def shards(tuned: Path) -> Path:
    """Shards as zero_to_fp32.py writes them: other names, no config."""
    tensors, folder = load_file(tuned / "transformer" / STEM), tuned.parent / "gathered"
    folder.mkdir()
    names = sorted(tensors)
    for number, part in enumerate((names[:20], names[20:]), 1):
        save_file({f"module.{n}": tensors[n] for n in part}, folder / f"model-{number:05d}-of-00002.safetensors")
    return folder


def variant(tuned: Path) -> Path:
    (tuned / "transformer" / STEM).rename(tuned / "transformer" / "diffusion_pytorch_model.bf16.safetensors")
    return tuned


def prefixed(tensors: Tensors) -> Tensors:
    return {f"model.diffusion_model.{name}": value for name, value in tensors.items()}


def wrapped(tensors: Tensors) -> Tensors:
    """The tensor names that a trainer saves if it uses compile, FSDP and gradient checkpointing at once."""
    inner = {name.replace("_blocks.1.", "_blocks.1._checkpoint_wrapped_module."): t for name, t in tensors.items()}
    return {f"_fsdp_wrapped_module._orig_mod.{name}": value for name, value in inner.items()}


FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda tuned: tuned,
    "flat": lambda tuned: tuned / "transformer",
    "variant": variant,
    "file": lambda tuned: tuned / "transformer" / STEM,
    "original": lambda tuned: rewritten(tuned, original, config=False),
    "prefixed": lambda tuned: rewritten(tuned, prefixed, config=True),
    "wrapped": lambda tuned: rewritten(tuned, wrapped, config=False),
    "shards": shards,
    "cache": lambda tuned: hub_cache(tuned, tuned.parent / "models--me--tune"),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_becomes_the_same_checkpoint(form: str, tuned: Path, base: Path, tmp_path: Path) -> None:
    wanted = load_file(tuned / "transformer" / STEM)
    source = FORMS[form](tuned)
    done = run("import", source, "--base", "mine", "--name", "tuned", models=tmp_path / "models")
    assert done.exit_code == 0, done.stderr
    target = tmp_path / "models" / "tuned"
    assert done.stdout.strip() == str(target)
    assert verify(target, deep=True).deep and verify(target).ok
    found = load_file(target / "transformer" / STEM)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in wanted.items())
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        for file in (base / part).iterdir():
            assert (target / part / file.name).samefile(file)


def test_it_is_called_after_its_folder(tuned: Path, tmp_path: Path) -> None:
    done = run("import", tuned / "transformer", "--base", tmp_path / "models" / "mine", models=tmp_path / "models")
    assert done.stdout.strip() == str(tmp_path / "models" / "my-run"), done.stderr
    kept = record.read(tmp_path / "models" / "my-run")
    assert kept is not None and (kept.repository, kept.checkpoint) == (None, None)


def test_without_a_base_the_command_is_told(tuned: Path, tmp_path: Path) -> None:
    done = run("import", tuned, models=tmp_path / "models")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"cogvideox weights import {tuned} --base cogvideox-5b" in done.stderr
    config = tuned / "transformer" / "config.json"
    published = {"num_layers": 42, "num_attention_heads": 48, "in_channels": 32, "patch_size_t": None}
    config.write_text(json.dumps(json.loads(config.read_text()) | published | {"ofs_embed_dim": None}))
    assert "--base cogvideox-5b-i2v" in run("import", tuned, models=tmp_path / "models").stderr


def test_a_base_that_does_not_fit(tuned: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert "cogvideox weights pull cogvideox-5b" in run("import", tuned, "--base", "cogvideox-5b", models=models).stderr
    assert "did you mean" in run("import", tuned, "--base", "cogvideox-5c", models=models).stderr
    done = run("import", tuned, "--base", "demo", models=models)
    assert "does not fit demo" in done.stderr and "text_encoder/config.json: d_model is 64, expected 32" in done.stderr
    assert done.exit_code == 2 and [p.name for p in models.iterdir() if not p.name.startswith(".")] == ["mine"]
    assert not list((models / ".partial").iterdir())
    done = run("import", models / "mine", "--base", "mine", models=models)
    assert "no transformer alone" in done.stderr
    for name in ("cogvideox-5b", "rife"):
        assert "choose a --name" in run("import", tuned, "--base", "mine", "--name", name, models=models).stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("norm_final.weight"), "lacks the tensor norm_final.weight"),
        (lambda t: t.update({"norm_final.weight": t["norm_final.weight"].to(torch.int8)}), "stored as I8"),
        (lambda t: t.update({"norm_final.weight": t["norm_final.weight"][:3].clone()}), "is 3, expected 32"),
        (lambda t: t.update({"control.weight": torch.ones(1)}), "contains the tensor control.weight"),
    ],
)
def test_half_a_transformer_is_refused(
    change: Callable[[Tensors], object], said: str, tuned: Path, tmp_path: Path
) -> None:
    file = tuned / "transformer" / STEM
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    done = run("import", tuned, "--base", "mine", models=tmp_path / "models")
    assert done.exit_code == 2 and said in done.stderr, done.stderr


def test_two_transformers_in_one_file_are_named(tuned: Path, tmp_path: Path) -> None:
    tensors = load_file(tuned / "transformer" / STEM)
    both = {f"{prefix}{name}": t.clone() for prefix in ("ema.", "model.") for name, t in tensors.items()}
    save_file(both, tmp_path / "both.safetensors")
    done = run("import", tmp_path / "both.safetensors", "--base", "mine", models=tmp_path / "models")
    assert done.exit_code == 2 and "contains 2 transformers, whose names begin with 'ema.', 'model.'" in done.stderr


def test_control_inputs_in_the_weights_are_named(tuned: Path, tmp_path: Path) -> None:
    """The file has control inputs like CogVideoX-Fun's and no config."""
    tensors = load_file(tuned / "transformer" / STEM)
    shape = tensors["patch_embed.proj.weight"].shape
    wider = (shape[0], 33, *shape[2:]) if len(shape) == 4 else (shape[0], 33 * 8)
    save_file(tensors | {"patch_embed.proj.weight": torch.zeros(wider)}, tmp_path / "fun.safetensors")
    done = run("import", tmp_path / "fun.safetensors", "--base", "mine", models=tmp_path / "models")
    assert done.exit_code == 2 and "the weights have 2 and 33; other numbers belong to CogVideoX-Fun" in done.stderr


def test_a_lost_shard_is_named(tuned: Path, tmp_path: Path) -> None:
    folder = shards(tuned)
    (folder / "model-00001-of-00002.safetensors").unlink()
    done = run("import", folder, "--base", "mine", models=tmp_path / "models")
    assert "model-00001-of-00002.safetensors: missing, expected 2 shards" in done.stderr
