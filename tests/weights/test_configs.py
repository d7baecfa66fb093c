"""Published configs pass the checks, also with fields from older libraries; a mixture of two models' configs is
refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weights import configs
from weights.catalog import CATALOG
from weights.configs import CLASSES, FILES
from weights.verify import recognise

T5 = {
    "_name_or_path": "t5", "architectures": ["T5EncoderModel"], "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64,
    "d_model": 4096, "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True, "is_gated_act": True,
    "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 24, "num_heads": 64, "num_layers": 24,
    "output_past": True, "pad_token_id": 0, "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.44.2", "use_cache": True, "vocab_size": 32128,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "CogVideoXDDIMScheduler", "_diffusers_version": "0.31.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "clip_sample_range": 1.0,
    "num_train_timesteps": 1000, "sample_max_value": 1.0, "set_alpha_to_one": True, "steps_offset": 0,
    "trained_betas": None,
}  # fmt: skip


def published(name: str, folder: Path) -> Path:
    known = CATALOG[name].configs
    image = known["transformer"]["in_channels"] == 32
    second = known["transformer"]["patch_size_t"] == 2
    size = {"sample_height": 96, "sample_width": 170, "sample_frames": 81, "patch_bias": False} if second else {}
    written: dict[str, dict[str, Any]] = {
        "model_index.json": {
            "_class_name": "CogVideoXImageToVideoPipeline" if image else "CogVideoXPipeline",
            **{part: ["diffusers", names[0]] for part, names in CLASSES.items()},
        },
        FILES["transformer"]: {"_class_name": CLASSES["transformer"][0], **known["transformer"], **size},
        FILES["vae"]: {"_class_name": CLASSES["vae"][0], **known["vae"], "latents_mean": None, "force_upcast": True},
        FILES["text_encoder"]: T5,
        FILES["scheduler"]: {**SCHEDULER, **known["scheduler"]},
    }
    for path, content in written.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    return folder


NAMES = [name for name, known in CATALOG.items() if not known.packaged]


@pytest.mark.parametrize("name", NAMES)
def test_published_configs_pass(name: str, tmp_path: Path) -> None:
    folder = published(name, tmp_path)
    assert [str(p) for p in configs.problems(folder)] == []
    found = recognise(folder)
    assert found is not None and found.name == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_parts_of_two_models_are_refused(name: str, other: str, tmp_path: Path) -> None:
    """Another model's VAE config or noise schedule is refused, unless it equals this model's or differs harmlessly from
    it."""
    folder = published(name, tmp_path)
    theirs, ours = CATALOG[other].configs, CATALOG[name].configs
    for part in ("vae", "scheduler"):
        path = folder / FILES[part]
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), **theirs[part]}))
        differ = {k for k in ours[part] if ours[part][k] != theirs[part][k]}
        harmless = {"invert_scale_latents"} if ours["transformer"]["in_channels"] == 16 else set()  # text to video
        assert {p.path for p in configs.problems(folder)} == ({FILES[part]} if differ - harmless else set())
        path.write_text(before)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler"])
def test_a_field_of_another_version_is_noted(part: str, tmp_path: Path) -> None:
    """diffusers ignores a field that only another version has, so the video is the same."""
    folder = published("cogvideox-5b", tmp_path)
    path = folder / FILES[part]
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 256, "_name_or_path": "x"}))
    assert [str(p) for p in configs.problems(folder)] == []
    (note,) = configs.unknown(folder)
    assert note.startswith(f"{FILES[part]}: sample_size is 256, which {CLASSES[part][0]}")


def test_cogvideox_fun_is_refused_whatever_its_channels(tmp_path: Path) -> None:
    folder = published("cogvideox-5b-i2v", tmp_path)
    path = folder / FILES["transformer"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_noise_in_inpaint_model": True}))
    assert "a field of CogVideoX-Fun" in str(next(configs.problems(folder)))
