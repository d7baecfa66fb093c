"""Tiny CogVideoX checkpoints with random weights, in the same files as the published checkpoints.

They have the published layout (model_index.json, one folder per component, sharded safetensors with an index, a T5
tokenizer with `spiece.model` and without tokenizer.json) and, per kind, the config values that distinguish the five
published checkpoints. Every class is the real class of diffusers or transformers; only the widths are small. This
module uses no other code of this project. Videos made with these weights are noise; only the demo model's weights are
trained.

The native size is 64x48 for 2b, 5b and 5b-i2v, with up to 17 frames. The 1.5 kinds have a square base of 128x128 and
accept any smaller size in multiples of 16.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import diffusers
import sentencepiece
import torch
import transformers
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

Kind = Literal["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"]
Damage = Literal[
    "missing-shard", "torn-file", "missing-weights", "missing-config", "missing-index", "missing-component",
    "missing-model-index", "missing-tokenizer", "wrong-tensor", "flipped-byte",
]  # fmt: skip

KINDS: tuple[Kind, ...] = ("2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v")
WIDTH, HEIGHT, FRAMES = 64, 48, 9  # pixels, pixels, frames: small and valid for every kind
DTYPES: dict[Kind, torch.dtype] = {k: torch.float16 if k == "2b" else torch.bfloat16 for k in KINDS}

_ROPE = {"use_rotary_positional_embeddings": True}
_SECOND = _ROPE | {"patch_size_t": 2, "patch_bias": False, "sample_height": 16, "sample_width": 16}
_TRANSFORMER: dict[Kind, dict[str, Any]] = {
    "2b": {},
    "5b": _ROPE,
    "5b-i2v": _ROPE | {"use_learned_positional_embeddings": True, "in_channels": 32},
    "1.5-5b": _SECOND,
    "1.5-5b-i2v": _SECOND | {"in_channels": 32, "ofs_embed_dim": 32},
}
_SHAPES, _COLOURS = ("circle", "square", "triangle", "star"), ("red", "green", "blue", "yellow", "white", "black")
_WAYS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "turns", "stays still")


def build(
    kind: Kind,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    single_file: bool = False,
    seed: int = 0,
    transformer: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one checkpoint into `folder`, which is created if missing, and returns it. A checkpoint takes about 0.3 s
    and 1 MB.

    If `dtype` is None, the published dtype is used: float16 for 2b, bfloat16 for the others. `single_file` writes one
    weights file per component instead of shards with an index. `transformer` overrides config values, e.g.
    `sample_width=20`. The same arguments give the same weights; the global random state does not change.
    """
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "time_embed_dim": 32,
        "text_embed_dim": 32,
        "sample_width": WIDTH // 8,
        "sample_height": HEIGHT // 8,
        "sample_frames": 17,
        **_TRANSFORMER[kind],
        **(transformer or {}),
    }
    dtype = dtype or DTYPES[kind]
    shard = "10GB" if single_file else "40KB"
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CogVideoXTransformer3DModel(**config).to(dtype).save_pretrained(folder / "transformer", max_shard_size=shard)
        _vae(kind).to(dtype).save_pretrained(folder / "vae")
        _text_encoder(pieces).to(dtype).save_pretrained(folder / "text_encoder", max_shard_size=shard)
    CogVideoXDDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0 if kind == "2b" else 1.0,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "CogVideoXImageToVideoPipeline" if kind.endswith("i2v") else "CogVideoXPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def cached(kind: Kind, root: Path | None = None, **knobs: Any) -> Path:
    """Calls `build` once for all tests; returns the folder. Treat it as read-only: damage only a copy made with
    `shutil.copytree`.

    `root` defaults to .cache/tests/checkpoints in the checkout. The folder's name contains a digest of this file, the
    library versions and `knobs`, so a change causes a rebuild. If several processes of pytest-xdist build at once, all
    use the folder that is finished first.
    """
    root = root or Path(__file__).resolve().parents[2] / ".cache" / "tests" / "checkpoints"
    versions = (torch.__version__, diffusers.__version__, transformers.__version__, sorted(knobs.items()))
    digest = hashlib.sha256(Path(__file__).read_bytes() + repr(versions).encode()).hexdigest()[:16]
    folder = root / f"{kind}-{digest}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=root))
    try:
        build(kind, scratch / "new", **knobs)
        (scratch / "new").rename(folder)
    except OSError:
        if not folder.is_dir():  # if it exists, another process has made it
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def damage(folder: Path, how: Damage) -> Path:
    """Damages a checkpoint (pass a copy) in one way; returns the changed file or folder."""
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    victim = {
        "missing-component": folder / "vae",
        "missing-config": folder / "transformer" / "config.json",
        "missing-index": folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json",
        "missing-model-index": folder / "model_index.json",
        "missing-tokenizer": folder / "tokenizer" / "spiece.model",
        "missing-weights": folder / "vae" / "diffusion_pytorch_model.safetensors",
    }.get(how, shards[-1])
    if how == "torn-file":
        os.truncate(victim, victim.stat().st_size // 2)
    elif how == "flipped-byte":
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    elif how == "wrong-tensor":
        victim.write_bytes(shards[0].read_bytes())
    elif victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink()
    return victim


def _vae(kind: Kind) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=HEIGHT,
        sample_width=WIDTH,
        scaling_factor=1.15258426 if kind == "2b" else 0.7,
        invert_scale_latents=kind.startswith("1.5"),
    )


def _text_encoder(pieces: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=-(-(pieces + 100) // 8) * 8,  # pieces and a hundred <extra_id_…>, padded as in T5
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    ).eval()


def _write_tokenizer(folder: Path) -> int:
    """A real T5 sentencepiece model (pad 0, eos 1, unk 2) with the json files beside it; returns its piece count."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [f"a {c} {s} {w} on a grey background" for c in _COLOURS for s in _SHAPES for w in _WAYS]
    alphabet = " ".join(chr(i) for i in range(33, 127))
    with (folder / "spiece.model").open("wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*sentences, alphabet, alphabet.lower()]),
            model_writer=out,
            vocab_size=256,
            hard_vocab_limit=False,
            character_coverage=1.0,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()
    extra = {f"<extra_id_{i}>": pieces + 99 - i for i in range(100)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    named = {0: "<pad>", 1: "</s>", 2: "<unk>"} | {i: token for token, i in extra.items()}
    tokenizer = {
        "added_tokens_decoder": {str(i): {"content": token, **flags} for i, token in sorted(named.items())},
        "additional_special_tokens": list(extra),
        "clean_up_tokenization_spaces": True,
        "eos_token": "</s>",
        "extra_ids": 100,
        "legacy": True,
        "model_max_length": 226,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    special = {k: tokenizer[k] for k in ("additional_special_tokens", "eos_token", "pad_token", "unk_token")}
    written = {"added_tokens": extra, "special_tokens_map": special, "tokenizer_config": tokenizer}
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    return int(pieces)
