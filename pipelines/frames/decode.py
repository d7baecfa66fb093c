"""Decode latents to uint8 frames, a few frames at a time.

CogVideoX's decoder works through pairs of latent frames and keeps earlier frames in a convolution cache. So each chunk
is exact and can be passed on before the rest of the clip is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

CHUNK = 8  # frames from a pair of latent frames


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> 0..255 uint8, rounded as diffusers does when it makes images."""
    return ((frames * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8)


@torch.no_grad()
def decode(vae: Any, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield uint8 frames [T, 3, H, W] on the latents' device; `latents`: [1, F, C, H, W], without padding.

    Without tiling each chunk is yielded as soon as it is decoded. With tiling, the stock decoder decodes the whole clip
    first, in the VAE's own dtype, because it keeps the cache of only one tile.
    """
    z = latents.permute(0, 2, 1, 3, 4)
    z = 1 / vae.config.scaling_factor * z
    _, _, count, height, width = z.shape
    if vae.use_tiling and (width > vae.tile_latent_min_width or height > vae.tile_latent_min_height):
        whole = vae.decode(z).sample[0]
        for start in range(0, whole.shape[1], CHUNK):
            yield to_uint8(whole[:, start : start + CHUNK]).transpose(0, 1)
        return
    batch = vae.num_latent_frames_batch_size
    rest = count % batch
    cache = None
    for i in range(max(count // batch, 1)):
        chunk = z[:, :, batch * i + (rest if i else 0) : batch * (i + 1) + rest]
        if vae.post_quant_conv is not None:
            chunk = vae.post_quant_conv(chunk)
        frames, cache = vae.decoder(chunk, conv_cache=cache)
        yield to_uint8(frames[0]).transpose(0, 1)


def decoder_calls(vae: Any, frames: int, height: int, width: int) -> int:
    """How often `decode` calls the VAE's decoder; `frames`, `height` and `width` are the latents' sizes."""
    batches: int = max(frames // vae.num_latent_frames_batch_size, 1)
    if not (vae.use_tiling and (width > vae.tile_latent_min_width or height > vae.tile_latent_min_height)):
        return batches
    rows = range(0, height, int(vae.tile_latent_min_height * (1 - vae.tile_overlap_factor_height)))
    columns = range(0, width, int(vae.tile_latent_min_width * (1 - vae.tile_overlap_factor_width)))
    return batches * len(rows) * len(columns)


@contextmanager
def watched(vae: Any, call: Callable[[], None]) -> Iterator[None]:
    """Calls `call` after each call of the VAE's decoder, also inside the stock tiled decoding."""

    def after(_module: Any, _given: Any, made: Any) -> None:
        if made[0].is_cuda:
            torch.cuda.synchronize(made[0].device)  # otherwise queued work would count as done
        call()

    hook = vae.decoder.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()
