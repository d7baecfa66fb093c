"""Published checkpoints are recognised by their configs; other checkpoints are described from their own configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.models import FAMILIES, SIZE_15, FrameRule, ModelError, describe
from pipelines.request import Task
from tests.rigs import checkpoints

# layers, heads, in_channels, patch_size_t, ofs_embed_dim: transformer configs as published
PUBLISHED = {
    "cogvideox-2b": (30, 30, 16, None, None),
    "cogvideox-5b": (42, 48, 16, None, None),
    "cogvideox-5b-i2v": (42, 48, 32, None, None),
    "cogvideox-1.5-5b": (42, 48, 16, 2, None),
    "cogvideox-1.5-5b-i2v": (42, 48, 32, 2, 512),
}


def configs(folder: Path, **transformer: object) -> Path:
    """A checkpoint folder with config files only, which is all that `describe` reads."""
    for name, file, content in (
        ("", "model_index.json", {"_class_name": "CogVideoXPipeline"}),
        ("transformer", "config.json", {"_class_name": "CogVideoXTransformer3DModel", **transformer}),
        ("vae", "config.json", {"_class_name": "AutoencoderKLCogVideoX", "block_out_channels": [128, 256, 256, 512]}),
        ("scheduler", "scheduler_config.json", {"_class_name": "CogVideoXDPMScheduler"}),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_are_recognised(name: str, tmp_path: Path) -> None:
    layers, heads, channels, patch, ofs = PUBLISHED[name]
    folder = configs(
        tmp_path / "some-folder-name", num_layers=layers, num_attention_heads=heads, attention_head_dim=64,
        in_channels=channels, out_channels=16, patch_size_t=patch, ofs_embed_dim=ofs, max_text_seq_length=226,
    )  # fmt: skip
    info = describe(folder)
    assert info.known
    assert info.family.name == name
    assert info.inner_dim == (1920 if heads == 30 else 3072)
    assert (Task.I2V in info.tasks) == name.endswith("i2v")
    assert info.family.dtype == ("float16" if name == "cogvideox-2b" else "bfloat16")
    assert info.family.fps == (16 if "1.5" in name else 8)


@pytest.mark.parametrize("kind", checkpoints.KINDS)
def test_a_checkpoint_of_its_own_is_read_off_its_configs(kind: checkpoints.Kind) -> None:
    info = describe(checkpoints.cached(kind))
    assert not info.known
    assert info.tasks == ({Task.I2V} if kind.endswith("i2v") else {Task.T2V, Task.V2V})
    assert info.family.fps == (16 if kind.startswith("1.5") else 8)
    assert info.family.frames.default == 17
    assert info.family.sizes.default == ((128, 128) if kind.startswith("1.5") else (64, 48))
    learned_or_sincos = kind in ("2b", "5b-i2v")
    assert ((48, 64) in info.family.sizes.native) == (kind == "5b"), learned_or_sincos


@pytest.mark.parametrize("damage", ["missing-model-index", "missing-config", "missing-component"])
def test_half_a_checkpoint_is_refused_by_name(damage: checkpoints.Damage, tmp_path: Path) -> None:
    folder = checkpoints.damage(checkpoints.build("5b", tmp_path / "half"), damage)
    with pytest.raises(ModelError, match=r"missing|does not load"):
        from pipelines.engine.loader import Loader, torch

        describe(folder)
        Loader(torch.device("cpu")).load(folder)


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    folder = configs(tmp_path)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ModelError, match="StableDiffusionPipeline"):
        describe(folder)
    (folder / "model_index.json").write_text("[1, 2]")
    with pytest.raises(ModelError, match="not a JSON object"):
        describe(folder)


def test_frame_rules() -> None:
    first, second = FrameRule(8, 9, 49, 49), FrameRule(16, 17, 161, 81)
    assert [first.next_valid(n) for n in (1, 9, 10, 16, 17, 25, 48, 49, 50, 81)] == [
        9,
        9,
        17,
        17,
        17,
        25,
        49,
        49,
        49,
        49,
    ]
    assert [second.next_valid(n) for n in (16, 18, 49, 81, 82, 161, 200)] == [17, 33, 49, 81, 97, 161, 161]
    for family in FAMILIES:
        assert family.frames.next_valid(family.frames.default) == family.frames.default


@pytest.mark.parametrize(
    ("asked", "made"),
    [((1280, 720), (1360, 768)), ((720, 1280), (768, 1360)), ((1024, 1024), (768, 768)), ((4, 3), (1024, 768)),
     ((1920, 1080), (1360, 768)), ((3000, 1000), (1360, 768))],
)  # fmt: skip
def test_second_generation_sizes(asked: tuple[int, int], made: tuple[int, int]) -> None:
    assert SIZE_15.nearest(*asked) == made
    assert SIZE_15.accepts(*made)
    assert not SIZE_15.accepts(1360, 760)
