"""The tensors that a checkpoint's configs require, by name and shape.

It describes diffusers' CogVideoX transformer and VAE and transformers' T5 encoder at the pinned versions, without
torch, so that the check is fast. tests/weights/test_expected.py compares it with the real classes.

Sources: diffusers' cogvideox_transformer_3d.py, embeddings.py (CogVideoXPatchEmbed) and autoencoder_kl_cogvideox.py;
transformers' modeling_t5.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


def transformer(config: Mapping[str, Any]) -> dict[str, Shape]:
    """`config` must include the defaults (`weights.configs.whole`)."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    text, time, ofs = config["text_embed_dim"], config["time_embed_dim"], config["ofs_embed_dim"]
    side, depth = config["patch_size"], config["patch_size_t"]
    cells = side * side * (depth or 1)
    found: dict[str, Shape] = {
        "patch_embed.proj.weight": (width, config["in_channels"] * cells)
        if depth
        else (width, config["in_channels"], side, side)
    }
    if config["patch_bias"] or depth:  # 1.5 always has it
        found["patch_embed.proj.bias"] = (width,)
    if config["use_learned_positional_embeddings"]:
        tall, wide = config["sample_height"] // side, config["sample_width"] // side
        long = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
        found["patch_embed.pos_embedding"] = (1, config["max_text_seq_length"] + long * tall * wide, width)
    found |= _linear("patch_embed.text_proj", width, text)
    found |= _linear("time_embedding.linear_1", time, width) | _linear("time_embedding.linear_2", time, time)
    if ofs:
        found |= _linear("ofs_embedding.linear_1", ofs, ofs) | _linear("ofs_embedding.linear_2", ofs, ofs)
    for number in range(config["num_layers"]):
        block, head = f"transformer_blocks.{number}", config["attention_head_dim"]
        for norm in ("norm1", "norm2"):
            found |= _linear(f"{block}.{norm}.linear", 6 * width, time) | _norm(f"{block}.{norm}.norm", width)
        found |= _norm(f"{block}.attn1.norm_q", head) | _norm(f"{block}.attn1.norm_k", head)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            found |= _linear(f"{block}.attn1.{part}", width, width)
        found |= _linear(f"{block}.ff.net.0.proj", 4 * width, width) | _linear(f"{block}.ff.net.2", width, 4 * width)
    found |= _norm("norm_final", width) | _norm("norm_out.norm", width) | _linear("norm_out.linear", 2 * width, time)
    return found | _linear("proj_out", cells * config["out_channels"], width)


def vae(config: Mapping[str, Any]) -> dict[str, Shape]:
    widths, layers, latent = list(config["block_out_channels"]), config["layers_per_block"], config["latent_channels"]
    return dict(
        [
            *_half("encoder", config["in_channels"], 2 * latent, widths, layers, _plain, "down", mid_first=False),
            *_half("decoder", latent, config["out_channels"], widths[::-1], layers + 1, _spatial(latent), "up"),
        ]
    )


def text_encoder(config: Mapping[str, Any]) -> dict[str, Shape]:
    """The embedding's name is `shared.weight` in the result; in files it may also be `encoder.embed_tokens.weight`."""
    width, inner, feed = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    found: dict[str, Shape] = {"shared.weight": (config["vocab_size"], width)}
    for number in range(config["num_layers"]):
        attention, ff = f"encoder.block.{number}.layer.0", f"encoder.block.{number}.layer.1"
        for part in "qkv":
            found[f"{attention}.SelfAttention.{part}.weight"] = (inner, width)
        found[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        if number == 0:
            buckets = (config["relative_attention_num_buckets"], config["num_heads"])
            found[f"{attention}.SelfAttention.relative_attention_bias.weight"] = buckets
        for part in ("wi_0", "wi_1"):
            found[f"{ff}.DenseReluDense.{part}.weight"] = (feed, width)
        found[f"{ff}.DenseReluDense.wo.weight"] = (width, feed)
        found |= {f"{attention}.layer_norm.weight": (width,), f"{ff}.layer_norm.weight": (width,)}
    return found | {"encoder.final_layer_norm.weight": (width,)}


EXPECTED: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Shape]]] = {
    "text_encoder": text_encoder,
    "transformer": transformer,
    "vae": vae,
}


def _linear(name: str, out: int, into: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _conv(name: str, out: int, into: int, *sides: int) -> Named:
    yield f"{name}.weight", (out, into, *sides)
    yield f"{name}.bias", (out,)


def _plain(name: str, width: int) -> Named:
    yield from _norm(name, width).items()


def _spatial(latent: int) -> Callable[[str, int], Named]:
    """Yields the tensors of the decoder's norms, which take the latents as a second input."""

    def norm(name: str, width: int) -> Named:
        yield from _norm(f"{name}.norm_layer", width).items()
        yield from _conv(f"{name}.conv_y.conv", width, latent, 1, 1, 1)
        yield from _conv(f"{name}.conv_b.conv", width, latent, 1, 1, 1)

    return norm


def _resnet(name: str, into: int, out: int, norm: Callable[[str, int], Named]) -> Named:
    yield from norm(f"{name}.norm1", into)
    yield from norm(f"{name}.norm2", out)
    yield from _conv(f"{name}.conv1.conv", out, into, 3, 3, 3)
    yield from _conv(f"{name}.conv2.conv", out, out, 3, 3, 3)
    if into != out:
        yield from _conv(f"{name}.conv_shortcut", out, into, 1, 1, 1)


def _half(
    name: str,
    into: int,
    out: int,
    widths: list[int],
    layers: int,
    norm: Callable[[str, int], Named],
    way: str,
    *,
    mid_first: bool = True,
) -> Named:
    """The encoder (`way` "down") or the decoder ("up"), whose middle block comes first."""
    yield from _conv(f"{name}.conv_in.conv", widths[0], into, 3, 3, 3)
    middle = widths[0] if mid_first else widths[-1]
    for number in range(2):
        yield from _resnet(f"{name}.mid_block.resnets.{number}", middle, middle, norm)
    before = widths[0]
    for block, width in enumerate(widths):
        for layer in range(layers):
            yield from _resnet(f"{name}.{way}_blocks.{block}.resnets.{layer}", before, width, norm)
            before = width
        if block < len(widths) - 1:
            yield from _conv(f"{name}.{way}_blocks.{block}.{way}samplers.0.conv", width, width, 3, 3)
    yield from norm(f"{name}.norm_out", widths[-1])
    yield from _conv(f"{name}.conv_out.conv", out, widths[-1], 3, 3, 3)
