"""With the same tiny checkpoint, seed and steps, our sampling and the stock pipelines make bit-identical frames on the
CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engine.loader import Loader
from pipelines.engine.memory import LADDER, Placement
from pipelines.engine.sample import Sampler
from pipelines.frames.decode import decode
from pipelines.plan import SamplingPlan, Source
from pipelines.request import GenerationRequest, Media, SchedulerName, Task
from pipelines.resolve import resolve
from tests.rigs import checkpoints

CPU = torch.device("cpu")
STEPS = 2


def moving_picture(frames: int, width: int, height: int) -> np.ndarray:
    """A uint8 clip [T, H, W, 3] of a bright square that moves right over a gradient."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 1] = np.linspace(0, 200, width, dtype=np.uint8)
    for i in range(frames):
        clip[i, 8:24, 4 + i : 20 + i, 0] = 255
    return clip


def ours(sampler: Sampler, plan: SamplingPlan, source: np.ndarray | None) -> np.ndarray:
    embeds = sampler.encode()
    conditions, state = sampler.prepare(embeds, source)
    while state.step < len(conditions.timesteps):
        sampler.step(sampler.model.transformer, conditions, state)
    latents = state.latents[:, conditions.padding :]
    return torch.cat(list(decode(sampler.model.vae, latents))).permute(0, 2, 3, 1).numpy()


def stock(sampler: Sampler, plan: SamplingPlan, source: np.ndarray | None) -> np.ndarray:
    kind = type(sampler.pipe)
    model = sampler.model
    pipe = kind(model.tokenizer, model.text_encoder, model.vae, model.transformer, model.scheduler(plan.scheduler))
    pipe.set_progress_bar_config(disable=True)
    given: dict[str, object] = {"height": plan.model_height, "width": plan.model_width}
    if plan.task is Task.V2V:
        given |= {"video": [Image.fromarray(f) for f in source], "strength": plan.strength}
    else:
        given |= {"num_frames": plan.model_frames}
    if plan.task is Task.I2V:
        given |= {"image": Image.fromarray(source[0])}
    out = pipe(
        prompt=plan.prompt,
        negative_prompt=plan.negative_prompt,
        num_inference_steps=plan.num_inference_steps,
        guidance_scale=plan.guidance_scale,
        use_dynamic_cfg=plan.use_dynamic_cfg,
        generator=torch.Generator().manual_seed(plan.seed),
        max_sequence_length=plan.max_tokens,
        **given,
    )
    return np.stack([np.asarray(f) for f in out.frames[0]])


CASES = [
    ("2b", Task.T2V, "ddim", False, 6.0),
    ("2b", Task.V2V, "ddim", False, 6.0),
    ("5b", Task.T2V, "dpm", True, 6.0),
    ("5b", Task.T2V, "ddim", False, 1.0),
    ("5b", Task.V2V, "dpm", True, 6.0),
    ("5b-i2v", Task.I2V, "dpm", True, 6.0),
    ("1.5-5b", Task.T2V, "dpm", True, 6.0),
    ("1.5-5b", Task.V2V, "dpm", False, 6.0),
    ("1.5-5b-i2v", Task.I2V, "dpm", True, 6.0),
]


@pytest.mark.parametrize(("kind", "task", "scheduler", "dynamic", "guidance"), CASES)
def test_frames_equal_the_stock_pipelines(
    kind: checkpoints.Kind, task: Task, scheduler: SchedulerName, dynamic: bool, guidance: float
) -> None:
    model = Loader(CPU).load(checkpoints.cached(kind))
    width, height = 64, 48
    media = Media("unused", "0")
    request = GenerationRequest(
        "a red circle moves left",
        negative_prompt="blurry",
        image=media if task is Task.I2V else None,
        video=media if task is Task.V2V else None,
        num_frames=9,
        width=width,
        height=height,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        use_dynamic_cfg=dynamic,
        scheduler=scheduler,
        seed=7,
    )
    frames = 21 if task is Task.V2V else 1
    plan = resolve(request, model.info, source=Source(width, height, frames, 8.0)).sampling
    # this size is small and not square, unlike the default size of the 1.5 kinds
    plan = replace(plan, model_width=width, model_height=height)
    source = None
    if task is not Task.T2V:
        source = moving_picture(plan.source_frames or 1, width, height)
    placement = Placement(model.modules, CPU)
    placement.apply(LADDER[0])
    sampler = Sampler(model, plan, placement)
    mine, theirs = ours(sampler, plan, source), stock(sampler, plan, source)
    assert mine.shape == theirs.shape
    assert mine.std() > 1, "flat frames would make the comparison meaningless"
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("rung", LADDER[1:], ids=str)
def test_offload_profiles_change_no_bit(rung) -> None:
    """Applies and removes the hooks of every profile, with the CPU as the device."""
    model = Loader(CPU).load(checkpoints.cached("5b", Path(checkpoints.cached("5b")).parent))
    plan = resolve(GenerationRequest("a red circle", num_inference_steps=2, num_frames=9, seed=1), model.info).sampling
    placement = Placement(model.modules, CPU)

    def run() -> np.ndarray:
        return ours(Sampler(model, plan, placement), plan, None)

    placement.apply(LADDER[0])
    plain = run()
    placement.apply(rung)
    offloaded = run()
    placement.apply(LADDER[0])
    after = run()
    if not rung.tiling:
        np.testing.assert_array_equal(plain, offloaded)
    np.testing.assert_array_equal(plain, after)
