"""From a config, our code expects the same tensors as the pinned libraries' classes have."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

from tests.rigs import checkpoints
from weights.catalog import CATALOG, find
from weights.configs import whole
from weights.expected import EXPECTED
from weights.fields import DEFAULTS

CLASSES = {
    "transformer": CogVideoXTransformer3DModel,
    "vae": AutoencoderKLCogVideoX,
    "scheduler": CogVideoXDPMScheduler,
}


def built(part: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        if part == "text_encoder":
            model: torch.nn.Module = T5EncoderModel(T5Config(**config))
        else:
            model = CLASSES[part].from_config(config)
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if name != "encoder.embed_tokens.weight"}


def folders() -> list[Path]:
    demos = [find(name, Path()) for name, known in CATALOG.items() if known.packaged]
    return [checkpoints.cached(kind) for kind in checkpoints.KINDS] + [folder for folder in demos if folder]


def test_of_every_checkpoint_here() -> None:
    for folder in folders():
        for part, expected in EXPECTED.items():
            config = json.loads((folder / part / "config.json").read_text())
            assert expected(whole(part, config)) == built(part, config), (folder, part)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("transformer", {"patch_size_t": 2, "num_layers": 1}),
        ("transformer", {}),  # CogVideoX-2B, the class's defaults
        ("transformer", {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True}),
        (
            "transformer",
            {
                "num_layers": 3,
                "num_attention_heads": 48,
                "use_rotary_positional_embeddings": True,
                "use_learned_positional_embeddings": True,
                "in_channels": 32,
            },
        ),
        ("transformer", {"num_layers": 2, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 512}),
        ("vae", {}),
        ("vae", {"layers_per_block": 2, "block_out_channels": [8, 16, 16, 24], "norm_num_groups": 8}),
        (
            "text_encoder",
            {
                "vocab_size": 32128,
                "d_model": 4096,
                "d_kv": 64,
                "d_ff": 10240,
                "num_layers": 24,
                "num_heads": 64,
                "feed_forward_proj": "gated-gelu",
            },
        ),
    ],
)
def test_of_published_sizes(part: str, values: dict[str, Any]) -> None:
    assert EXPECTED[part](whole(part, values)) == built(part, values)


def test_defaults_are_the_libraries_own() -> None:
    """A field missing from a config has the class's default, even if CogVideoX needs another value."""
    for part, cls in CLASSES.items():
        known = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items() if k != "self"}
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()} == DEFAULTS[part], part
    t5 = T5Config().to_dict()
    # transformers derives missing values of these fields from feed_forward_proj
    derived = ("model_type", "dense_act_fn", "is_gated_act")
    assert {k: t5[k] for k in DEFAULTS["text_encoder"] if k not in derived} == {
        k: v for k, v in DEFAULTS["text_encoder"].items() if k not in derived
    }
