"""Frame interpolation with RIFE: from any frame rate to any other, keeping the original frames.

The network is one of the IFNet family 4.6 to 4.26; the shapes in its state dict show the version. Scene cuts are not
handled, because a generated clip has none.

The architecture is Practical-RIFE's, (c) hzwer and contributors, MIT License,
https://github.com/hzwer/Practical-RIFE. The method: Huang et al., "Real-Time Intermediate Flow Estimation for Video
Frame Interpolation", arXiv 2011.06294.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from weights import record
from weights.interpolation import SUFFIXES

_GET = "get flownet 4.25 of Practical-RIFE (any of 4.6 to 4.26 will do, except 4.14.lite)"
NEAR_ENOUGH = 1 / 32  # share of the time between two frames; for a network that only draws the middle frame
_PLANES = {24: 5, 52: 13}  # lastconv channels -> planes used after the shuffle: flow 4, mask 1, carried features 8


@dataclass(frozen=True)
class Shape:
    """The network's shape according to its state dict: numbers of channels, and `scales`, the factor by which each
    block divides the image's size."""

    widths: tuple[int, ...]
    out: int
    encoder_layers: int  # 0 (4.6), 2 (4.7 to 4.9) or 4
    encoder_width: int
    features: int  # full-resolution channels per frame
    scales: tuple[int, ...]

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this number, because every block halves its scaled image twice."""
        return 4 * max(self.scales)

    @property
    def middle_only(self) -> bool:
        """Whether all blocks are equal. Then this is the small network that ships with this project. It draws the
        middle frame, whatever time is given."""
        return len(set(self.widths)) == 1 and not self.features


class _Residual(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x) * self.beta + x, 0.2)


def _conv(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.LeakyReLU(0.2))


class _Block(nn.Module):
    """Refines the flow at 1/`scale` of the image's size."""

    def __init__(self, channels: int, width: int, out: int, scale: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(channels, width // 2), _conv(width // 2, width))
        self.convblock = nn.Sequential(*(_Residual(width) for _ in range(8)))
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(width, out, 4, 2, 1), nn.PixelShuffle(2))
        self.scale = scale

    def forward(self, x: Tensor, flow: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the change of the flow [N, 4, H, W] in pixels, the logit of the mask [N, 1, H, W], and the features
        for the next block [N, 0 or 8, H, W]."""
        s = self.scale
        x = _resize(x, 1 / s)
        if flow is not None:
            x = torch.cat((x, _resize(flow, 1 / s) / s), 1)
        y = _resize(self.lastconv(self.convblock(self.conv0(x))), s)
        return y[:, :4] * s, y[:, 4:5], y[:, 5 : _PLANES[y.shape[1] * 4]]


def _resize(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """`x` [N, C, H, W] sampled at the positions to which `flow` [N, 2, H, W] (x, y in pixels) points. A position
    outside the image gets the nearest pixel of the border."""
    h, w = x.shape[2:]
    grid_x = torch.linspace(-1, 1, w, device=x.device).expand(h, w) + flow[:, 0] / ((w - 1) / 2)
    grid_y = torch.linspace(-1, 1, h, device=x.device)[:, None].expand(h, w) + flow[:, 1] / ((h - 1) / 2)
    grid = torch.stack((grid_x, grid_y), -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


@dataclass(frozen=True)
class Guess:
    """`flow`: where in the two frames each pixel comes from ([N, 4, H, W] in pixels). `mask`: the logit of the first
    frame's share. `warped`: the two frames, warped by the flow."""

    flow: Tensor
    mask: Tensor
    warped: tuple[Tensor, Tensor]

    def merged(self) -> Tensor:
        share = torch.sigmoid(self.mask)
        return self.warped[0][:, :3] * share + self.warped[1][:, :3] * (1 - share)


class IFNet(nn.Module):
    """Draws a frame between two given frames. The network uses float32, because half precision bends the flow near the
    right edge of wide frames."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.file: dict[str, str] = {}  # name and hash of the file it was loaded from
        m, e = shape.encoder_width, shape.features
        first = 2 * (3 + e) + 1
        later = first + 1 + _PLANES[shape.out] - 5 + 4
        for k, (width, scale) in enumerate(zip(shape.widths, shape.scales, strict=True)):
            self.add_module(f"block{k}", _Block(later if k else first, width, shape.out, scale))
        last = nn.ConvTranspose2d(m, e, 4, 2, 1) if e else nn.Identity()
        layers: list[nn.Module] = [nn.Conv2d(3, m, 3, 2, 1)] if e else []
        for _ in range(shape.encoder_layers - 2):
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(m, m, 3, 1, 1)]
        if shape.encoder_layers == 4:  # the two-layer encoder has no activation
            layers.append(nn.LeakyReLU(0.2))
        self.encode = nn.Sequential(*layers, last)

    def encoded(self, frame: Tensor) -> Tensor:
        """Frame [N, 3, H, W] in 0..1 -> frame and features [N, 3 + e, H, W]. H, W: multiples of `shape.multiple`."""
        frame = frame.clamp(0, 1)
        return torch.cat((frame, self.encode(frame)), 1) if self.shape.features else frame

    def forward(self, frame0: Tensor, frame1: Tensor, timestep: float | Tensor) -> Tensor:
        """The frame [N, 3, H, W] at time `timestep` between two frames of any size. Frames have values in 0..1.
        `timestep` is in 0..1: one number, or N numbers. If the network only draws middle frames, the interval is halved
        until its middle is near enough to `timestep`.

        This method encodes both frames on every call, while `interpolate` encodes each frame of a clip only once.
        """
        times = torch.as_tensor(timestep, dtype=torch.float64).flatten().tolist()
        if len(times) != 1:
            return torch.cat([self(a[None], b[None], t) for a, b, t in zip(frame0, frame1, times, strict=True)])
        (t,) = times
        if not self.shape.middle_only:
            return self._drawn(frame0, frame1, t)
        low, high, begin, end = frame0, frame1, 0.0, 1.0
        while True:
            middle, frame = (begin + end) / 2, self._drawn(low, high, 0.5)
            if abs(middle - t) <= NEAR_ENOUGH:
                return frame
            if t < middle:
                high, end = frame, middle
            else:
                low, begin = frame, middle

    def _drawn(self, frame0: Tensor, frame1: Tensor, t: float) -> Tensor:
        height, width = frame0.shape[-2:]
        drawn = self.between(self.encoded(self.padded(frame0)), self.encoded(self.padded(frame1)), t)
        return drawn[..., :height, :width].clamp(0, 1)

    def padded(self, frame: Tensor) -> Tensor:
        """[N, 3, H, W] with zeros to the right and below, so that both sides are multiples of `shape.multiple`."""
        height, width = frame.shape[-2:]
        return F.pad(frame, (0, -width % self.shape.multiple, 0, -height % self.shape.multiple))

    def between(self, a: Tensor, b: Tensor, t: float) -> Tensor:
        """The frame at time `t` (0..1) between two results of `encoded` -> [N, 3, H, W]."""
        *_, guess = self.guesses(a, b, t)
        return guess.merged()

    def guesses(self, a: Tensor, b: Tensor, t: float) -> Iterator[Guess]:
        """Yield the guess after each block; training uses all guesses."""
        time = a.new_full((a.shape[0], 1, *a.shape[2:]), t)
        flow, mask, carried = None, a.new_zeros(()), a.new_zeros(())
        warped = (a, b)
        for block in self.children():
            if not isinstance(block, _Block):
                continue
            pictures = (warped[0][:, :3], warped[1][:, :3], warped[0][:, 3:], warped[1][:, 3:])
            x = (*pictures, time) if flow is None else (*pictures, time, mask, carried)
            change, logit, carried = block(torch.cat(x, 1), flow)
            # Version 4.6 has no encoder and adds up the masks of its blocks. Later versions have an encoder and do not
            # add the masks up.
            accumulate = flow is not None and not self.shape.features
            mask = mask + logit if accumulate else logit
            flow = change if flow is None else flow + change
            warped = (warp(a, flow[:, :2]), warp(b, flow[:, 2:]))
            yield Guess(flow, mask, warped)


def build(state_dict: Mapping[str, Tensor]) -> IFNet:
    """The network of a state dict, on the CPU in float32, for inference.

    It accepts the prefixes `module.` and `flownet.` and the name `blocks.N.` for `blockN.`, and drops parts that only
    training needs. Raises ValueError for RIFE v3, 4.0 to 4.5, 4.14.lite and anything else; the message names a
    supported version.
    """
    tensors = dict(_canonical({str(k): v for k, v in state_dict.items()}))
    try:
        with torch.device("meta"):
            net = IFNet(_read_shape(tensors))
        net.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as e:
        raise ValueError(f"the weights fit no RIFE network that is known here; {_GET}: {e}") from e
    return net.float().eval().requires_grad_(False)


def load(path: str | Path, device: str | torch.device) -> IFNet:
    """Build the network from a .safetensors, .pkl, .pth or .pt file, on `device`. Never unpickles code.

    Raises ValueError for another extension, for a file that is not a dict of tensors, and wherever `build` raises it.
    Raises OSError if the file cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: RIFE weights are .safetensors, .pkl or .pth files")
    try:
        if suffix == ".safetensors":
            state_dict = load_file(path)
        else:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as e:  # torch's own message advises to load it anyway
        raise ValueError(f"{path.name} is not a pickle of plain tensors, and other pickles may contain code") from e
    except Exception as e:  # another kind of file may fail in any way
        raise ValueError(f"{path.name} is not a file of tensors: {str(e) or type(e).__name__}") from e
    if not isinstance(state_dict, dict) or not all(isinstance(v, Tensor) for v in state_dict.values()):
        raise ValueError(f"{path.name} is not a dict of tensors; {_GET}")
    net = build(state_dict).to(device)
    net.file = {"file": path.name, "sha256": record.sha256(path)}
    return net


def _canonical(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, value in state_dict.items():
        key = re.sub(r"^((module|flownet)\.)+", "", key)
        key = re.sub(r"^blocks\.(\d+)\.", r"block\1.", key)
        key = re.sub(r"^encode\.cnn(\d)\.", lambda m: f"encode.{2 * int(m[1])}.", key)
        if not key.startswith(("teacher.", "caltime.")):
            yield key, value


def _read_shape(tensors: Mapping[str, Tensor]) -> Shape:
    if any(k.startswith(("block_tea.", "block0.convblock0.")) for k in tensors):
        raise ValueError(f"these are RIFE v3 weights, which are not supported; {_GET}")
    numbers = all(v.is_floating_point() and v.numel() and v.layout == torch.strided for v in tensors.values())
    if not numbers or not any(k.startswith("block0.conv0.") for k in tensors):
        raise ValueError(f"these are no RIFE weights; {_GET}")
    kernels = {k: v.shape for k, v in tensors.items() if v.ndim == 4}
    count = sum(f"block{k}.conv0.0.0.weight" in kernels for k in range(8))
    out = kernels["block0.lastconv.0.weight"][1] if "block0.lastconv.0.weight" in kernels else 0
    if "block0.convblock.0.beta" not in tensors or out not in _PLANES or count not in (4, 5):
        raise ValueError(f"these look like RIFE 4.0 to 4.5 weights, which are not supported; {_GET}")
    try:
        widths = tuple(kernels[f"block{k}.conv0.1.0.weight"][0] for k in range(count))
        residual = kernels["block0.convblock.0.conv.weight"]
    except KeyError as e:
        raise ValueError(f"the weights lack {e}; {_GET}") from e
    if residual[1] != widths[0]:
        raise ValueError(f"these are RIFE 4.14.lite weights (grouped convolutions), which are not supported; {_GET}")
    encoder = [kernels[name] for name in (f"encode.{k}.weight" for k in range(10)) if name in kernels]
    width, features = (encoder[0][0], encoder[-1][1]) if encoder else (0, 0)
    # only the last width shows that a network is 4.25.lite, which has scales of its own
    five = (32, 16, 8, 4, 1) if widths[-1] == 24 else (16, 8, 4, 2, 1)
    return Shape(widths, out, len(encoder), width, features, (8, 4, 2, 1) if count == 4 else five)


def _step(source_fps: float, target_fps: float) -> Fraction:
    if not source_fps > 0 or not target_fps > 0:
        raise ValueError(f"frame rates must be above 0, not {source_fps} and {target_fps}")
    return Fraction(source_fps).limit_denominator(1001) / Fraction(target_fps).limit_denominator(1001)


def draws(source_fps: float, target_fps: float) -> bool:
    """Whether the target rate needs frames that the source does not have."""
    return _step(source_fps, target_fps).denominator > 1


def plan(n: int, source_fps: float, target_fps: float) -> list[tuple[int, float]]:
    """The positions of the new frames among `n` source frames: (i, t) lies between frames i and i + 1, at the fraction
    t.

    There are floor((n - 1) * target / source) + 1 positions. The first position is the first frame, and no position is
    after the last frame. Raises ValueError for n < 1 or rates <= 0.
    """
    if n < 1:
        raise ValueError(f"there must be a frame, not {n}")
    step = _step(source_fps, target_fps)
    places = [k * step for k in range(math.floor((n - 1) / step) + 1)]
    return [(p.numerator // p.denominator, float(p % 1)) for p in places]


def interpolate(net: IFNet, frames: Iterable[Tensor], source_fps: float, target_fps: float) -> Iterator[Tensor]:
    """Convert frames [3, H, W] in 0..1 to another rate, at the positions of `plan`; dtype and device stay the same.

    A source frame that lies at a wanted position is yielded unchanged. Only two frames are held at a time, and each is
    encoded once. Raises ValueError for rates <= 0 or frames that are not [3, H, W].
    """
    return _interpolate(net, frames, _step(source_fps, target_fps))


def _interpolate(net: IFNet, frames: Iterable[Tensor], step: Fraction) -> Iterator[Tensor]:
    place = Fraction(0)
    before: _Frame | None = None
    for index, tensor in enumerate(frames):
        frame = _Frame(net, tensor)
        while place <= index:
            if place == index:
                yield tensor
            elif before is not None:
                yield before.towards(frame, float(place - (index - 1)))
            place += step
        before = frame


class _Frame:
    """A source frame, encoded when first needed."""

    def __init__(self, net: IFNet, tensor: Tensor) -> None:
        if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.is_floating_point():
            raise ValueError(f"frames must be floating [3, H, W], not {tensor.dtype} {list(tensor.shape)}")
        self._net = net
        self._tensor = tensor
        self._encoded: Tensor | None = None

    @torch.inference_mode()
    def _ready(self) -> Tensor:
        if self._encoded is None:
            self._encoded = self._net.encoded(self._net.padded(self._tensor[None].to(next(self._net.parameters()))))
        return self._encoded

    @torch.inference_mode()
    def towards(self, other: _Frame, t: float) -> Tensor:
        if other._tensor.shape != self._tensor.shape:
            raise ValueError(f"frames differ in size: {list(self._tensor.shape)} and {list(other._tensor.shape)}")
        if self._net.shape.middle_only:  # which encodes nothing
            pair = (frame._tensor[None].to(next(self._net.parameters())) for frame in (self, other))
            drawn: Tensor = self._net(*pair, t)
        else:
            drawn = self._net.between(self._ready(), other._ready(), t)
        h, w = self._tensor.shape[1:]
        return drawn[0, :, :h, :w].clamp(0, 1).to(self._tensor)
