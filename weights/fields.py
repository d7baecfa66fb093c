"""The fields of CogVideoX's configs: their supported values, and the libraries' defaults.

Sources: the constructors of the pinned diffusers' CogVideoX classes and of T5Config (tests/weights/test_expected.py
compares the defaults); the published configs, which agree in every field of FIXED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]

# part -> field -> the only supported value
FIXED: Mapping[str, Config] = {
    "transformer": {
        "out_channels": 16,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "timestep_activation_fn": "silu",
        "norm_elementwise_affine": True,
        "norm_eps": 1e-5,
        "spatial_interpolation_scale": 1.875,
        "temporal_interpolation_scale": 1.0,
    },
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "down_block_types": ["CogVideoXDownBlock3D"] * 4,
        "up_block_types": ["CogVideoXUpBlock3D"] * 4,
        "act_fn": "silu",
        "norm_eps": 1e-6,
        "temporal_compression_ratio": 4,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "text_encoder": {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "is_decoder": False,
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "trained_betas": None,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
    },
}
# part -> field -> smallest and largest whole number; the limits are far beyond the values of any model
WHOLE: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "transformer": {
        "num_attention_heads": (1, 1024),
        "attention_head_dim": (1, 1024),
        "num_layers": (1, 200),
        "time_embed_dim": (1, 65536),
        "text_embed_dim": (1, 65536),
        "max_text_seq_length": (1, 4096),
        "sample_height": (1, 1024),
        "sample_width": (1, 1024),
        "sample_frames": (1, 10_000),
    },
    "vae": {
        "layers_per_block": (1, 16),
        "norm_num_groups": (1, 1024),
        "sample_height": (16, 8192),
        "sample_width": (16, 8192),
    },
    "text_encoder": {
        "vocab_size": (1, 1_000_000),
        "d_model": (1, 65536),
        "d_kv": (1, 1024),
        "d_ff": (1, 262_144),
        "num_layers": (1, 200),
        "num_heads": (1, 1024),
    },
    "scheduler": {},
}
DEFAULTS: Mapping[str, Config] = {
    "transformer": FIXED["transformer"]
    | {
        "num_attention_heads": 30,
        "attention_head_dim": 64,
        "num_layers": 30,
        "in_channels": 16,
        "time_embed_dim": 512,
        "text_embed_dim": 4096,
        "max_text_seq_length": 226,
        "sample_height": 60,
        "sample_width": 90,
        "sample_frames": 49,
        "patch_size_t": None,
        "ofs_embed_dim": None,
        "use_rotary_positional_embeddings": False,
        "use_learned_positional_embeddings": False,
        "patch_bias": True,
        "dropout": 0.0,
    },
    "vae": FIXED["vae"]
    | {
        "block_out_channels": [128, 256, 256, 512],
        "layers_per_block": 3,
        "norm_num_groups": 32,
        "sample_height": 480,
        "sample_width": 720,
        "scaling_factor": 1.15258426,
        "force_upcast": True,
        "invert_scale_latents": False,
    },
    "text_encoder": FIXED["text_encoder"]
    | {
        "feed_forward_proj": "relu",
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
    },
    "scheduler": FIXED["scheduler"]
    | {
        "clip_sample": True,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
        "snr_shift_scale": 3.0,
        "timestep_spacing": "leading",
        "clip_sample_range": 1.0,
        "sample_max_value": 1.0,
    },
}
# part -> field -> value of all published checkpoints, for fields that may differ in a user's own model
USUAL: Mapping[str, Config] = {
    "transformer": {"max_text_seq_length": 226, "sample_height": 60, "sample_width": 90, "sample_frames": 49},
    "vae": {"norm_num_groups": 32, "scaling_factor": 0.7},
}
