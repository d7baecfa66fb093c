"""Write trained models as two checkpoint folders in the published diffusers layout, in float16.

Knows: the layout, and that `demo-i2v` borrows all but its transformer from `demo`. Does not know: training.
The folders are made beside the old ones and then take their place; a model card (README.md) stays.
"""

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXPipeline

from training.text import build_tokenizer
from training.train_transformer import SCHEDULE, Model

SHARED = ("scheduler", "text_encoder", "tokenizer", "vae")
LOG_VARIANCE = -10.0  # the encoder was trained without one; this makes its draws nearly exact


def finished_vae(vae: AutoencoderKLCogVideoX, scale: float) -> AutoencoderKLCogVideoX:
    """A copy in float16 whose draws are nearly exact and whose config has `scale`, one over the latents' deviation."""
    vae = copy.deepcopy(vae)
    vae.register_to_config(scaling_factor=round(scale, 6))
    layer = vae.encoder.conv_out.conv
    with torch.no_grad():
        layer.weight[layer.weight.shape[0] // 2 :] = 0
        layer.bias[layer.bias.shape[0] // 2 :] = LOG_VARIANCE
    return vae.half()


def averaged(model: Model) -> Model:
    """A copy in float16 with the running mean of every weight, each of the shape it has in `model`."""
    result = Model(copy.deepcopy(model.transformer), copy.deepcopy(model.encoder), model.tokenizer, {})
    result.load(model.average)
    result.transformer.half().eval()
    result.encoder.half().eval()
    return result


def replace(fresh: Path, target: Path) -> None:
    """Put the folder `fresh` in the place of `target`, whose model card it takes over. Both lie in one folder."""
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        card = target / "README.md"
        if card.exists():
            shutil.copy(card, fresh / "README.md")
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def export_text_to_video(vae: AutoencoderKLCogVideoX, model: Model, scale: float, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    model = averaged(model)
    CogVideoXPipeline(
        tokenizer=build_tokenizer(),  # a used one would carry the padding of its last call
        text_encoder=model.encoder,
        vae=finished_vae(vae, scale),
        transformer=model.transformer,
        scheduler=CogVideoXDPMScheduler(**SCHEDULE),
    ).save_pretrained(fresh, safe_serialization=True)
    replace(fresh, target)


def export_image_to_video(model: Model, demo: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    averaged(model).transformer.save_pretrained(fresh / "transformer", safe_serialization=True)
    index = json.loads((demo / "model_index.json").read_text())
    index["_class_name"] = "CogVideoXImageToVideoPipeline"
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for part in SHARED:
        (fresh / part).symlink_to(Path("..") / demo.name / part)
    replace(fresh, target)
