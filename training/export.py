"""Write trained models as two checkpoint folders in the published diffusers layout, in float16.

`demo-i2v` links to `demo` for everything except its transformer. New folders are written next to the old ones and then
replace them; the model cards (README.md) stay.
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
LOG_VARIANCE = -10.0  # the encoder was trained without a variance; this makes its samples nearly exact


def finished_vae(vae: AutoencoderKLCogVideoX, scale: float) -> AutoencoderKLCogVideoX:
    """A float16 copy with nearly exact samples and with `scale`, the reciprocal of the latents' standard deviation, in
    its config.
    """
    vae = copy.deepcopy(vae)
    vae.register_to_config(scaling_factor=round(scale, 6))
    layer = vae.encoder.conv_out.conv
    with torch.no_grad():
        layer.weight[layer.weight.shape[0] // 2 :] = 0
        layer.bias[layer.bias.shape[0] // 2 :] = LOG_VARIANCE
    return vae.half()


def averaged(model: Model) -> Model:
    """A float16 copy of `model` whose weights are the running means. Each mean has the shape of the weight in
    `model`."""
    result = Model(copy.deepcopy(model.transformer), copy.deepcopy(model.encoder), model.tokenizer, {})
    result.load(model.average)
    result.transformer.half().eval()
    result.encoder.half().eval()
    return result


def replace(fresh: Path, target: Path) -> None:
    """Replace the folder `target` by the folder `fresh`, and keep the model card of `target`. The two folders have the
    same parent folder."""
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
        tokenizer=build_tokenizer(),  # a used tokenizer would keep the padding of its last call
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
