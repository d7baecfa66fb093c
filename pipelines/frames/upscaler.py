"""Enlarge frames with Real-ESRGAN or another network that spandrel loads.

A frame that is too large for the device's memory is enlarged tile by tile. `pipelines.frames.fit` then brings the
enlarged frame to the exact size.

spandrel is an extra and imported only when a file is loaded: it needs torchvision, and a torchvision of another build
than torch's makes importing diffusers fail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights import record

TILE = 512  # side of an input tile, in pixels
SMALLER = (512, 256, 128)  # tile sizes if the device's memory is too small for whole frames
OVERLAP = 32  # pixels that neighbouring tiles share
SUFFIXES = (".safetensors", ".pth")


class Upscaler:
    """Enlarges frames `scale` times. `net`: [1, 3, H, W] in 0..1 -> [1, 3, H * scale, W * scale], on `device` in
    `dtype`. On a GPU the network gets whole frames as long as memory allows. On a CPU it gets tiles, because running
    out of main memory raises no exception. `whole`: the network must see whole frames on every device. `weights` is the
    number of the network's parameters."""

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        scale: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        whole: bool = False,
        name: str = "",
        sha256: str = "",
        weights: int = 0,
    ) -> None:
        self.scale, self.name, self.sha256, self.weights = scale, name, sha256, weights
        self._net, self._device, self._dtype, self._whole = net, device, dtype, whole
        self.tile = None if whole or device.type != "cpu" else TILE

    def for_manifest(self) -> dict[str, Any]:
        return {"file": self.name, "sha256": self.sha256, "scale": self.scale}

    def __call__(self, frame: Tensor) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, H * scale, W * scale], on the network's device.

        Raises torch.OutOfMemoryError if even the smallest tile is too large.
        """
        picture = frame[None].to(self._device, self._dtype) / 255
        while True:
            try:
                large = tiled(self._net, picture, self.scale, self.tile, OVERLAP)
                return (large[0].float().clamp(0, 1) * 255).round().to(torch.uint8)
            except torch.OutOfMemoryError:
                smaller = [side for side in SMALLER if self.tile is None or side < self.tile]
                if self._whole or not smaller:
                    raise
            # outside the handler: the traceback would keep the failed attempt's tensors alive
            self.tile = smaller[0]
            if self._device.type == "cuda":
                torch.cuda.empty_cache()


@torch.inference_mode()
def tiled(net: Callable[[Tensor], Tensor], picture: Tensor, scale: int, tile: int | None, overlap: int) -> Tensor:
    """[1, 3, H, W] -> [1, 3, H * scale, W * scale], with at most `tile` x `tile` input pixels at a time. If `tile` is
    None, the whole picture is enlarged at once.

    Overlapping tiles are blended linearly. Raises ValueError unless 0 <= overlap < tile.
    """
    height, width = picture.shape[2:]
    if tile is None or (height <= tile and width <= tile):
        return net(picture)
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} does not go with tiles of {tile}")
    total = picture.new_zeros((1, picture.shape[1], height * scale, width * scale), dtype=torch.float32)
    weights = total.new_zeros((1, 1, *total.shape[2:]))
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            large = net(picture[:, :, top : top + tile, left : left + tile]).float()
            rows, columns = large.shape[2:]
            ramp = _ramp(rows, overlap * scale, large)[:, None] * _ramp(columns, overlap * scale, large)
            place = (slice(None), slice(None), slice(top * scale, top * scale + rows))
            across = slice(left * scale, left * scale + columns)
            total[(*place, across)] += large * ramp
            weights[(*place, across)] += ramp
    return total / weights


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    return [*range(0, max(length - tile, 0), tile - overlap), max(length - tile, 0)]


def _ramp(length: int, width: int, like: Tensor) -> Tensor:
    """Weights that are 1 in the middle and fall towards both ends over `width`, but never to 0."""
    from_start = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return (torch.minimum(from_start, from_start.flip(0)) / (width + 1)).clamp(max=1)


def load(path: str | Path, device: torch.device) -> Upscaler:
    """Load a .safetensors or .pth file, in half precision on a GPU if the network supports it.

    Raises OSError if the file is missing. Every other failure raises ValueError, whose message names the file or the
    package.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path.name}: upscalers are {' and '.join(SUFFIXES)} files")
    sha256 = record.sha256(path)
    try:
        import spandrel
    except Exception as e:  # a torchvision of another build than torch's raises a RuntimeError
        raise ValueError(
            f"{path.name} needs the package spandrel (the extra `upscale`) and the torchvision of this torch's build:"
            f" {_first_line(e)}"
        ) from e
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(path)
    except Exception as e:  # pickle, safetensors, torch and spandrel each have their own exceptions
        raise ValueError(
            f"{path.name} is no upscaler that spandrel {spandrel.__version__} reads: {_first_line(e)}"
        ) from e
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale < 2:
        raise ValueError(f"{path.name} is a {found.architecture.name} network that enlarges nothing")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise ValueError(f"{path.name} is not for colour pictures")
    half = device.type == "cuda" and found.supports_half
    dtype = torch.float16 if half else torch.float32
    found.to(device, dtype).eval()
    found.model.requires_grad_(False)
    whole = found.tiling is spandrel.ModelTiling.INTERNAL
    weights = sum(p.numel() for p in found.model.parameters())
    return Upscaler(found, found.scale, device, dtype, whole=whole, name=path.name, sha256=sha256, weights=weights)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
