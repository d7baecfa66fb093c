"""Over a hundred ways to damage a checkpoint; each is a small change to a copy of an intact checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]
Tensors = dict[str, torch.Tensor]

WEIGHTS = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
TENSORS = {
    "transformer": ("patch_embed.proj.weight", "transformer_blocks.1.attn1.norm_q.weight", "norm_final.bias"),
    "vae": ("decoder.conv_out.conv.bias", "decoder.mid_block.resnets.0.conv1.conv.weight", "encoder.norm_out.weight"),
    "text_encoder": (
        "shared.weight",
        "encoder.final_layer_norm.weight",
        "encoder.block.1.layer.0.SelfAttention.q.weight",
    ),
}
FIELDS: dict[str, dict[str, list[Any]]] = {
    "model_index.json": {
        "_class_name": ["CogVideoXImageToVideoPipeline", "CogVideoXFunControlPipeline", "WanPipeline", None, ["x"]],
        "transformer": [["diffusers", "ConsisIDTransformer3DModel"], [None, None]],
        "text_encoder": [["transformers", "UMT5EncoderModel"]],
        "controlnet": [["diffusers", "CogVideoXControlNet"]],
        "scheduler": [["diffusers", "CogVideoXDPMScheduler"]],
    },
    "transformer/config.json": {
        "_class_name": ["CogVideoXTransformer3D", None],
        "in_channels": [32, 33, 48, "16", 16.5, True],
        "out_channels": [32],
        "num_layers": [1, 3, 0, 10**9],
        "num_attention_heads": [1, 4],
        "attention_head_dim": [32],
        "patch_size": [1, 4],
        "patch_size_t": [1, 2],
        "ofs_embed_dim": [512, 0],
        "use_rotary_positional_embeddings": [False],
        "use_learned_positional_embeddings": [True],
        "norm_eps": [1e-6],
        "activation_fn": ["gelu"],
        "timestep_activation_fn": ["gelu"],
        "flip_sin_to_cos": [False],
        "freq_shift": [1],
        "temporal_compression_ratio": [8],
        "time_embed_dim": [64],
        "attention_bias": [False],
        "norm_elementwise_affine": [False],
        "add_control_layer": [True],
        "quantization_config": [{"quant_method": "torchao"}, {}, False],
        "dropout": [0.1, 2],
        "sample_height": [7],
        "sample_width": [7],
        "_use_default_values": [["num_layers"], None],
    },
    "vae/config.json": {
        "_class_name": ["AutoencoderKLWan"],
        "scaling_factor": [1.15258426, 0, "0.7"],
        "layers_per_block": [2],
        "block_out_channels": [[8, 8, 16], [8, 16, 16, 16], "8"],
        "norm_num_groups": [3],
        "act_fn": ["gelu"],
        "norm_eps": [1e-5],
        "shift_factor": [0.1],
        "latents_mean": [[0.0] * 16],
        "use_quant_conv": [True],
        "latent_channels": [8],
        "sample_height": [96],  # only tiling uses this field
        "force_upcast": [False],
    },
    "text_encoder/config.json": {
        "model_type": ["umt5"],
        "architectures": [["UMT5EncoderModel"]],
        "feed_forward_proj": ["relu", "gated-silu"],
        "num_layers": [1, 3],
        "num_heads": [2],
        "d_kv": [4],
        "vocab_size": [100, 240],
        "layer_norm_epsilon": [1e-5],
        "relative_attention_max_distance": [64],
        "is_decoder": [True],
        "quantization_config": [{"quant_method": "bitsandbytes"}],
        "tie_word_embeddings": [False],
        "dropout_rate": ["0.1", -0.1],  # this field and the fields below do not change the video
        "classifier_dropout": ["0.0"],
        "eos_token_id": [1.0],
        "use_cache": [1],
        "dtype": ["x"],
        "output_hidden_states": ["x"],
    },
    "scheduler/scheduler_config.json": {
        "_class_name": ["FlowMatchEulerDiscreteScheduler", "CogVideoXDPMScheduler", None],
        "prediction_type": ["epsilon", "flow_prediction"],
        "beta_end": [0.02],
        "snr_shift_scale": [3.0, "1"],
        "rescale_betas_zero_snr": [False],
        "clip_sample": [True],
        "num_train_timesteps": [500, 1000.0],
        "set_alpha_to_one": [False],
        "timestep_spacing": ["linspace"],  # the engine always uses trailing
        "trained_betas": [[0.1] * 1000],
        "_use_default_values": [["snr_shift_scale"]],
    },
    "tokenizer/added_tokens.json": {"circle": [5]},
    "tokenizer/tokenizer_config.json": {
        "eos_token": ["a"], "pad_token": ["red"], "padding_side": ["left"], "model_max_length": [5, "x"],
        "added_tokens_decoder": [{"5": {"content": "red"}}, {"7": {"content": "</s>"}}, None],
        "additional_special_tokens": [["red"], "red"],
        "extra_ids": [1, 10**30], "split_special_tokens": [True], "add_eos_token": ["red"], "chat_template": [[1]],
        "model_input_names": [None], "bos_token": ["red", 5], "mask_token": ["red"],
    },
}  # fmt: skip


def every() -> dict[str, Change]:
    """Maps a descriptive name to each change, for a checkpoint with one weights file per component."""
    return dict([*_tensors(), *_fields(), *_files()])


def weights(folder: Path, part: str, change: Callable[[Tensors], None]) -> None:
    file = folder / WEIGHTS[part]
    tensors = load_file(file)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, file, {"format": "pt"})


def config(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(folder: Path, name: str, key: str) -> None:
    path = folder / name
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


def _tensors() -> Iterator[tuple[str, Change]]:
    def removed(tensors: Tensors, name: str) -> None:
        del tensors[name]

    def renamed(tensors: Tensors, name: str) -> None:
        tensors[f"module.{name}"] = tensors.pop(name)

    def reshaped(tensors: Tensors, name: str) -> None:
        tensors[name] = tensors[name].flatten()[: tensors[name].numel() // 2].clone()

    def added(tensors: Tensors, name: str) -> None:
        tensors[f"{name}.absmax"] = torch.zeros(3)

    def cast(dtype: torch.dtype) -> Callable[[Tensors, str], None]:
        return lambda tensors, name: tensors.update({name: tensors[name].to(dtype)})

    kinds = {"removed": removed, "renamed": renamed, "reshaped": reshaped, "added": added}
    dtypes = (torch.int8, torch.float8_e4m3fn, torch.float16, torch.float32)
    kinds |= {str(dtype).removeprefix("torch."): cast(dtype) for dtype in dtypes}
    for part, names in TENSORS.items():
        for name in names:
            for kind, change in kinds.items():
                yield f"{part} {name} {kind}", lambda f, p=part, n=name, c=change: weights(f, p, lambda t: c(t, n))


def _fields() -> Iterator[tuple[str, Change]]:
    for file, fields in FIELDS.items():
        for key, values in fields.items():
            for value in values:
                yield f"{file} {key}={value!r:.40}", lambda f, n=file, k=key, v=value: config(f, n, **{k: v})
    for file, keys in {
        "scheduler/scheduler_config.json": ("prediction_type", "snr_shift_scale", "clip_sample", "_class_name"),
        "transformer/config.json": ("use_rotary_positional_embeddings", "num_layers", "sample_height", "_class_name"),
        "text_encoder/config.json": ("feed_forward_proj", "d_model", "vocab_size"),
        "vae/config.json": ("block_out_channels", "layers_per_block", "scaling_factor"),
    }.items():
        for key in keys:
            if (file, key) != ("transformer/config.json", "sample_height"):
                yield f"{file} without {key}", lambda f, n=file, k=key: without(f, n, k)


def _files() -> Iterator[tuple[str, Change]]:
    def cut(folder: Path, name: str) -> None:
        os.truncate(folder / name, (folder / name).stat().st_size // 2)

    def swapped(folder: Path) -> None:
        one, two = folder / WEIGHTS["vae"], folder / WEIGHTS["transformer"]
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)

    def doubled(folder: Path, part: str) -> None:
        file = folder / WEIGHTS[part]
        shutil.copyfile(file, file.with_name("copy.safetensors"))

    def indexed(folder: Path) -> None:
        """Adds another set of weights, in a shard with an index, beside the single file."""
        file = folder / WEIGHTS["text_encoder"]
        tensors = {name: t * 2 for name, t in load_file(file).items()}
        save_file(tensors, file.with_name("model-00001-of-00001.safetensors"), {"format": "pt"})
        places = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
        file.with_name(file.name + ".index.json").write_text(json.dumps({"weight_map": places}))

    def two_embeddings(tensors: Tensors, factor: float) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] * factor

    for part, file in WEIGHTS.items():
        yield f"{file} truncated", lambda f, n=file: cut(f, n)
        yield f"{file} missing", lambda f, n=file: (f / n).unlink()
        yield f"{file} doubled", lambda f, p=part: doubled(f, p)
        yield f"{file} as fp16 variant", lambda f, n=file: (f / n).rename(f / n.replace(".safe", ".fp16.safe"))  # type: ignore[misc]
    yield "tokenizer truncated", lambda f: cut(f, "tokenizer/spiece.model")
    yield "vae and transformer swapped", swapped
    yield "two sets of weights", indexed
    yield "two embeddings", lambda f: weights(f, "text_encoder", lambda t: two_embeddings(t, 2.0))
    yield "one embedding twice", lambda f: weights(f, "text_encoder", lambda t: two_embeddings(t, 1.0))
    yield (
        "the other name of the embedding",
        lambda f: weights(
            f, "text_encoder", lambda t: t.update({"encoder.embed_tokens.weight": t.pop("shared.weight")})
        ),
    )
    yield (
        "a whole T5's decoder",
        lambda f: weights(f, "text_encoder", lambda t: t.update({"decoder.final_layer_norm.weight": torch.ones(3)})),
    )
