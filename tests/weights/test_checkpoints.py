"""The tiny checkpoints of the tests: published layout, loaded and run by the stock pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image

from tests.rigs import checkpoints


@pytest.mark.parametrize("kind", checkpoints.KINDS)
def test_stock_pipeline_loads_and_generates(kind: checkpoints.Kind) -> None:
    folder = checkpoints.cached(kind)
    image_to_video = kind.endswith("i2v")
    cls = CogVideoXImageToVideoPipeline if image_to_video else CogVideoXPipeline
    pipe = cls.from_pretrained(folder, torch_dtype=checkpoints.DTYPES[kind])
    pipe.set_progress_bar_config(disable=True)
    extra = {"image": Image.new("RGB", (checkpoints.WIDTH, checkpoints.HEIGHT), "red")} if image_to_video else {}
    frames = pipe(
        prompt="a red circle moves left",
        width=checkpoints.WIDTH,
        height=checkpoints.HEIGHT,
        num_frames=checkpoints.FRAMES,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
        **extra,
    ).frames[0]
    assert frames.shape == (checkpoints.FRAMES, checkpoints.HEIGHT, checkpoints.WIDTH, 3)
    assert np.isfinite(frames).all()


def test_layout_is_the_published_one() -> None:
    folder = checkpoints.cached("5b")
    assert sorted(p.name for p in (folder / "tokenizer").iterdir()) == [
        "added_tokens.json", "special_tokens_map.json", "spiece.model", "tokenizer_config.json",
    ]  # fmt: skip
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        index = json.loads((folder / part / f"{stem}.safetensors.index.json").read_text())
        shards = {p.name for p in (folder / part).glob("*.safetensors")}
        assert len(shards) > 1
        assert set(index["weight_map"].values()) == shards


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first, second = checkpoints.build("2b", tmp_path / "a"), checkpoints.build("2b", tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state())
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert all((first / p).read_bytes() == (second / p).read_bytes() for p in files)


def test_cached_builds_once(tmp_path: Path) -> None:
    folder = checkpoints.cached("5b", tmp_path, single_file=True)
    stamp = (folder / "model_index.json").stat().st_mtime_ns
    assert checkpoints.cached("5b", tmp_path, single_file=True) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == stamp
    assert [p.name for p in (folder / "transformer").glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]
    assert checkpoints.cached("5b", tmp_path) != folder
    assert not list(tmp_path.glob(".*"))
