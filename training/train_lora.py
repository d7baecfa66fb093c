"""Trains a LoRA for the demo model that gives every shape a white outline: `python -m training.train_lora`, minutes.

One LoRA file fits the demo's text-to-video and image-to-video transformers, because it adapts only layers that exist in
both transformers.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from training import dataset, loop, train_vae
from training.__main__ import CACHE, WEIGHTS, scaling_factor
from training.dataset import Bucket, Clips, encode, held_out
from training.shapes import FILM, Frames, Scene, render, sample_scene
from training.train_transformer import EARLY_STEPS, SCHEDULE, build, loss_of

SEED = 6
OUTLINE = 3.0  # units
RANK, STEPS, PEAK_RATE = 8, 600, 3e-3
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
BUCKET = Bucket(64, 96, 400, 1.0)
TARGET = WEIGHTS / "demo-lora"


def draw(index: int) -> tuple[Frames, Scene]:
    rng = np.random.default_rng((SEED, index))
    while True:
        scene = sample_scene(rng, FILM)
        if not held_out(scene) and "white" not in (scene.color, scene.background):
            return render(scene, BUCKET.height, BUCKET.width, OUTLINE), scene


def outlined(vae: AutoencoderKLCogVideoX, folder: Path) -> Clips:
    """The videos' latents, from an earlier run or encoded now, like `dataset.load`."""
    file = folder / "latents-outlined.pt"
    basis = dataset.basis_of(vae, (draw(index)[0] for index in range(10)))
    clips = dataset.read(file, basis)
    if clips is None:
        clips = encode(vae, map(draw, range(BUCKET.count)))
        loop.keep({"basis": basis, "clips": clips}, file)
    return clips


def main() -> None:
    vae = train_vae.trained(CACHE)
    scheduler, scale = CogVideoXDDIMScheduler(**SCHEDULE), scaling_factor(dataset.load(vae, CACHE))
    clips = outlined(vae, CACHE)
    model = build(32, start_from=torch.load(CACHE / "transformer.pt")["average"])
    basis = loop.digest(*model.weights().values(), clips.latents)
    model.encoder.requires_grad_(False)
    model.transformer.requires_grad_(False)
    torch.manual_seed(SEED)
    model.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
    trained = [p for p in model.transformer.parameters() if p.requires_grad]

    def loss(step: int) -> tuple[torch.Tensor, float]:
        # the transformer already knows the layout of a video, so timesteps are drawn as in the later part of its
        # training
        value = loss_of(model, scheduler, {BUCKET: clips}, scale, EARLY_STEPS + step)
        return value, value.item()

    loop.run(
        "lora",
        CACHE / "lora.pt",
        STEPS,
        [torch.optim.AdamW(trained, lr=PEAK_RATE, betas=(0.9, 0.99))],
        lambda step: PEAK_RATE * min(1, (step + 1) / 20, (STEPS - step) / (0.5 * STEPS)),
        loss,
        lambda: {"model": get_peft_model_state_dict(model.transformer)},
        lambda saved: set_peft_model_state_dict(model.transformer, saved["model"]),
        trained,
        basis=basis,
    )
    layers = {name: value.half() for name, value in get_peft_model_state_dict(model.transformer).items()}
    CogVideoXPipeline.save_lora_weights(TARGET, transformer_lora_layers=layers, weight_name="outline.safetensors")
    (TARGET / "outline.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
