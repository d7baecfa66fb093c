"""Provides the GPU tests of options with a LoRA, interpolation networks, upscalers and an input image.

All networks are small and have random weights, except for the network that ships with this project. This module imports
nothing that needs ffmpeg, and its helpers accept a device, so that they can be tested on a CPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.frames import rife
from pipelines.frames.upscaler import Upscaler
from pipelines.request import Lora, Media
from tests.pipelines.frames.test_rife import golden_pair, golden_spec, golden_weights
from tests.rigs import checkpoints, upscalers
from tests.rigs.gpu import rig
from tests.rigs.loras import draw, write
from tests.rigs.upscalers import SCALE, Architecture
from weights.interpolation import SHIPPED

Net = Literal["shipped", "4.6", "4.25"]


def style(engine: Any, kind: checkpoints.Kind, folder: Path) -> Lora:
    """A LoRA for all attention layers of that checkpoint, strong enough for a visible effect."""
    transformer = engine.loader.load(engine.models[kind], kind).transformer
    pairs = {name: (down * 3, up * 3) for name, (down, up) in draw(transformer).items()}
    return Lora(str(write(folder / "style.safetensors", pairs, "kohya")))


def picture(folder: Path) -> Media:
    path = folder / "picture.png"
    Image.fromarray(rig.moving_picture(1, 64, 48)[0]).save(path)
    return Media.of(path)


def frame(height: int, width: int) -> Tensor:
    """An input frame for upscalers, as uint8 [3, H, W]."""
    return torch.from_numpy(rig.moving_picture(1, width, height)[0]).permute(2, 0, 1).contiguous()


def interpolating(name: Net, device: torch.device) -> rife.IFNet:
    """The shipped network, or one of a published architecture with the random weights of the recorded output."""
    if name == "shipped":
        return rife.load(SHIPPED, device)
    entry = golden_spec()[name]
    return rife.build(golden_weights(entry["weights"], entry["seed"])).to(device)


def drawn(net: rife.IFNet, device: torch.device) -> Tensor:
    """Two frames and, between them, the frames interpolated at 1/3 and 2/3 of the interval, as [4, 3, H, W] in 0..1 on
    the CPU."""
    pair = [one.to(device) for one in golden_pair(72, 100, 5)]
    found = list(rife.interpolate(net, pair, 8, 24))
    assert {one.device.type for one in found} == {device.type}
    return torch.stack(found).cpu()


class Enlarger(nn.Module):
    """A network that enlarges [1, 3, H, W] to [1, 3, 4H, 4W]. Its convolutions pad their input, so its output differs
    at the edges of a tile. `width` is the number of channels at the large size, which determines its memory use."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.Tanh(), nn.Conv2d(width, 3, 5, padding=2))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        large = nn.functional.interpolate(x, scale_factor=SCALE, mode="nearest")
        detail: Tensor = self.net(large)
        return large * 0.8 + detail * 0.2 + 0.05


def enlarging(device: torch.device, dtype: torch.dtype = torch.float32, width: int = 8) -> Upscaler:
    net = Enlarger(width).to(device, dtype)
    return Upscaler(net, SCALE, device, dtype, name="net.pth", sha256="ab")


def by_tiles(upscaler: Upscaler, given: Tensor, tile: int | None) -> Tensor:
    """Upscales the frame; returns int16 [3, H * scale, W * scale] on the CPU, so that differences can be negative."""
    upscaler.tile = tile
    large: Tensor = upscaler(given)
    return large.cpu().to(torch.int16)


def spandrel(patch: pytest.MonkeyPatch) -> Any:
    """Imports the package spandrel; skips the test if it is not installed."""
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("needs spandrel")
    return upscalers.spandrel(patch)


def upscaler_file(architecture: Architecture, folder: Path) -> Path:
    """A weights file that spandrel reads, for a small 4x network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = upscalers.small(architecture)
    path = folder / f"{architecture}.safetensors"
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return path
