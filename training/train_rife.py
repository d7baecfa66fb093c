"""Trains the small interpolation network: `python -m training.train_rife`, about seven minutes on a CPU core.

Knows: how to draw moving shapes and drifting images at any moment and size, and how the network learns to draw the
frame between two given frames. Does not know: the demo model, or the frame rate of a video (`pipelines.frames.rife`).

The layout is that of RIFE 4.6 with narrower blocks, so that the code for the published weights can also read the
weights trained here. One block is trained and used at all four scales. First the network learns only the motion of each
pixel. The network cannot learn the motion from a loss on images alone, because at first every predicted flow gives
worse images than no flow. Its checkpoint is in `.cache/demo-rife`, and training resumes from there.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.frames.rife import IFNet, Shape, warp
from training import loop
from training.muon import Muon
from training.pictures import picture
from training.shapes import COLORS, SIZES, Field, Scene, mask, sample_scene

CACHE = Path(".cache/demo-rife")
TARGET = Path(__file__).parent.parent / "weights" / "demo-rife" / "flownet.safetensors"
SHAPE = Shape(widths=(36, 36, 36, 36), out=24, encoder_layers=0, encoder_width=0, features=0, scales=(8, 4, 2, 1))
MATCHING, STEPS = 1600, 2400  # training steps of the block alone, then of the whole network
NATIVE = (64, 96)
# (factor of the native size, share of the batches, pairs per batch); the factor 7.5 means 720 x 480
ZOOMS = ((1.0, 0.7, 8), (2.0, 0.16, 2), (4.0, 0.09, 1), (7.5, 0.05, 1))
WINDOW = (256, 384)  # largest size of a part of a frame in training
# (steps from the first frame to the middle frame, steps to the last frame). The network is so small that it learns only
# one moment between two frames: halfway.
TIMES = ((1, 2), (2, 4))

MATCHING_RATE, RATE = 2e-3, 1e-3
GUIDED = 0.1  # initial weight of the flow's error; it falls to a tenth of this value


@dataclass(frozen=True)
class Sample:
    """Three images [..., 3, H, W] in 0..1, and the position of each pixel of the middle image in the other two images
    [..., 4, H, W]. `t` (0..1): the time of the middle image.
    """

    before: Tensor
    between: Tensor
    after: Tensor
    flow: Tensor
    t: float
    zoom: float


def moment(scene: Scene, t: float, zoom: float, top: int, left: int, height: int, width: int) -> Field:
    """[H, W, 3] in 0..255: a window of the scene in frame `t`, which may be a fraction, drawn `zoom` times as large."""
    middle_x, middle_y = NATIVE[1] * zoom / 2 - left, NATIVE[0] * zoom / 2 - top
    dx, dy = scene.centre(t)
    place = middle_x + (scene.x + dx) * zoom, middle_y + (scene.y + dy) * zoom
    layers = [(scene.color, mask(scene.shape, *place, scene.radius(t) * zoom, scene.angle(t), height, width))]
    if (thing := scene.other) is not None:
        place = middle_x + thing.x * zoom, middle_y + thing.y * zoom
        layer = thing.color, mask(thing.shape, *place, SIZES[thing.size] * zoom, 0.0, height, width)
        layers.insert(1 if thing.in_front else 0, layer)
    image: Field = np.broadcast_to(np.array(COLORS[scene.background], np.float32), (height, width, 3))
    for color, alpha in layers:
        image = alpha[..., None] * np.array(COLORS[color], np.float32) + (1 - alpha[..., None]) * image
    return image


def motion(scene: Scene, t: float, to: float, zoom: float, top: int, left: int, height: int, width: int) -> Tensor:
    """[2, H, W] the motion of each pixel from frame `t` to frame `to`, right and down; 0 where nothing moves."""
    middle_x, middle_y = NATIVE[1] * zoom / 2 - left, NATIVE[0] * zoom / 2 - top
    (now_x, now_y), (then_x, then_y) = scene.centre(t), scene.centre(to)
    x, y = middle_x + (scene.x + now_x) * zoom, middle_y + (scene.y + now_y) * zoom
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    turn, grow = scene.angle(to) - scene.angle(t), scene.radius(to) / scene.radius(t)
    cos, sin = grow * math.cos(turn), grow * math.sin(turn)
    dx = (xs - x) * cos - (ys - y) * sin + x + (then_x - now_x) * zoom - xs
    dy = (xs - x) * sin + (ys - y) * cos + y + (then_y - now_y) * zoom - ys
    seen = mask(scene.shape, x, y, scene.radius(t) * zoom, scene.angle(t), height, width) > 0.02
    if scene.other is not None and scene.other.in_front:
        thing = scene.other
        place = middle_x + thing.x * zoom, middle_y + thing.y * zoom
        seen &= mask(thing.shape, *place, SIZES[thing.size] * zoom, 0.0, height, width) < 0.5
    return torch.from_numpy(np.stack([dx * seen, dy * seen]).astype(np.float32))


def _tensor(image: Field) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)).round() / 255


def _enlarged(image: Tensor, zoom: float) -> Tensor:
    return F.interpolate(image[None], scale_factor=zoom, mode="bicubic", antialias=False)[0].clamp(0, 1)


def _window(zoom: float) -> tuple[int, int]:
    return min(WINDOW[0], round(NATIVE[0] * zoom)), min(WINDOW[1], round(NATIVE[1] * zoom))


def moving_shapes(rng: np.random.Generator, share: float, zoom: float) -> Sample:
    """Two images of a scene, one or two frames apart, and the image between them. Half of the large images are enlarged
    small ones, as in the demo model."""
    # half of the pairs are within the first 17 frames of the video
    frames, gap = int(rng.choice([17, 49])), int(rng.integers(1, 3))
    scene = sample_scene(rng, frames, anywhere=bool(rng.random() < 0.6), two=0.4)
    start = float(rng.uniform(0, frames - 1 - gap))
    times = (start, start + gap * share, start + gap)
    height, width = _window(zoom)
    top = int(rng.integers(0, round(NATIVE[0] * zoom) - height + 1))
    left = int(rng.integers(0, round(NATIVE[1] * zoom) - width + 1))
    if zoom > 1 and rng.random() < 0.5:
        small = (_tensor(moment(scene, t, 1.0, 0, 0, *NATIVE)) for t in times)
        a, b, c = (_enlarged(i, zoom)[:, top : top + height, left : left + width] for i in small)
    else:
        a, b, c = (_tensor(moment(scene, t, zoom, top, left, height, width)) for t in times)
    flow = torch.cat([motion(scene, times[1], to, zoom, top, left, height, width) for to in (times[0], times[2])])
    return Sample(a, b, c, flow, share, zoom)


def texture(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """[3, H, W] in 0..1: soft spots of several sizes."""
    image = torch.zeros(1, 3, height, width)
    for size in (4, 9, 20, 45):
        spots = rng.random((1, 3, height // size + 2, width // size + 2), np.float32)
        image += F.interpolate(torch.from_numpy(spots), (height, width), mode="bilinear") * float(rng.random())
    return ((image - image.min()) / (image.max() - image.min()))[0]


def drifting_picture(rng: np.random.Generator, k: int, n: int, zoom: float, textures: float = 0.6) -> Sample:
    """A window that slides over an image by whole pixels. The middle image is after `k` of `n` steps. `textures` is the
    share of textures among the images."""
    height, width = _window(zoom)
    most = max(1, math.ceil(3.5 * zoom / n))
    dx, dy = (int(d) for d in rng.integers(-most, most + 1, 2))
    size = height + n * abs(dy), width + n * abs(dx)
    if rng.random() < textures:
        big = texture(rng, *size)
    elif zoom > 1 and rng.random() < 0.5:
        small = _tensor(picture(rng, math.ceil(size[0] / zoom), math.ceil(size[1] / zoom))[0])
        big = _enlarged(small, zoom)
    else:
        big = _tensor(picture(rng, *size)[0])
    top, left = max(0, -n * dy), max(0, -n * dx)
    a, b, c = (big[:, top + i * dy :, left + i * dx :][:, :height, :width] for i in (0, k, n))
    way = torch.tensor([k * dx, k * dy, (k - n) * dx, (k - n) * dy], dtype=torch.float32)
    return Sample(a, b, c, way[:, None, None].expand(4, height, width), k / n, zoom)


def batch(rng: np.random.Generator) -> Sample:
    """Pairs of frames of one size, each pair with the frame between them. All pairs of the batch use the same time for
    that frame."""
    zoom, _, count = ZOOMS[int(rng.choice(len(ZOOMS), p=[z[1] for z in ZOOMS]))]
    k, n = TIMES[int(rng.integers(len(TIMES)))]
    return _together(
        [
            moving_shapes(rng, k / n, zoom) if rng.random() < 0.5 else drifting_picture(rng, k, n, zoom)
            for _ in range(count)
        ]
    )


def _together(found: list[Sample]) -> Sample:
    before, between, after, flow = (
        torch.stack([getattr(one, name) for one in found]) for name in ("before", "between", "after", "flow")
    )
    return Sample(before, between, after, flow, found[0].t, found[0].zoom)


def matching(block: Any, rng: np.random.Generator, easy: bool) -> Tensor:
    """The flow error of the block alone, at full size, starting from no flow or from a nearly correct guess. If `easy`,
    the images are textures, which show motion everywhere.
    """
    k, n = TIMES[int(rng.integers(len(TIMES)))]
    shapes, textures = (0.0, 1.0) if easy else (0.4, 0.6)
    one = _together(
        [
            moving_shapes(rng, k / n, 1.0) if rng.random() < shapes else drifting_picture(rng, k, n, 1.0, textures)
            for _ in range(8)
        ]
    )
    zero = torch.zeros_like(one.before[:, :1])
    guess = torch.zeros_like(one.flow)
    if not easy and rng.random() < 0.3:
        off = torch.from_numpy(rng.normal(0, 0.8, (len(guess), 4, 1, 1)).astype(np.float32))
        guess = one.flow + off
    pictures = (warp(one.before, guess[:, :2]), warp(one.after, guess[:, 2:]))
    change, _, _ = block(torch.cat((*pictures, zero + one.t, zero), 1), guess)
    moving = 1 + 4 * (one.flow.abs().amax(1, keepdim=True) > 0)
    wrong: Tensor = (guess + change - one.flow) ** 2 * moving
    return wrong[..., 4:-4, 4:-4].mean()


def loss(net: IFNet, one: Sample, guided: float) -> tuple[Tensor, float]:
    """The loss and the mean error of the last block's image. The loss adds the errors of every block's image and flow,
    with the most weight on the last block's image."""
    total, error = one.before.new_zeros(()), 0.0
    moving = 1 + 4 * (one.flow.abs().amax(1, keepdim=True) > 0)
    for k, guess in enumerate(net.guesses(net.encoded(one.before), net.encoded(one.after), one.t)):
        difference = guess.merged() - one.between
        last = k == len(SHAPE.scales) - 1
        # the mean over 8 x 8 pixels also notices an object that is far from its place
        total = total + (1.0 if last else 0.2) * (difference.abs().mean() + F.avg_pool2d(difference, 8).abs().mean())
        wrong = F.smooth_l1_loss(guess.flow / one.zoom, one.flow / one.zoom, reduction="none")
        total = total + guided * (wrong * moving).mean()
        error = float(difference.detach().abs().mean())
    return total, error


class _Narrow(nn.Module):
    """The first layer of the block that runs first. The input of that block does not include a mask and a flow yet."""

    def __init__(self, whole: nn.Conv2d, channels: int) -> None:
        super().__init__()
        self.whole, self.channels = whole, channels

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.whole.weight[:, : self.channels], self.whole.bias, 2, 1)


def tied(net: IFNet) -> Any:
    """Make all blocks of `net` share the weights of the last block, which works at full size. Returns that block."""
    parts: list[Any] = list(net.children())
    first, *others, one, _ = parts
    channels = first.conv0[0][0].in_channels
    for block in (first, *others):
        block.conv0, block.convblock, block.lastconv = one.conv0, one.convblock, one.lastconv
    layer, activation = one.conv0[0]
    first.conv0 = nn.Sequential(nn.Sequential(_Narrow(layer, channels), activation), one.conv0[1])
    return one


def untied(block: Any) -> dict[str, Tensor]:
    """The state dict of a network all of whose blocks are copies of this block."""
    plain = {}
    for name, wanted in IFNet(SHAPE).state_dict().items():
        value = block.state_dict()[name.partition(".")[2]]
        plain[name] = value[:, : wanted.shape[1]] if name == "block0.conv0.0.0.weight" else value
    return plain


def optimizers(block: Any) -> list[torch.optim.Optimizer]:
    kernels = [p for name, p in block.named_parameters() if p.ndim == 4 and p.shape[1] > 1 and "lastconv" not in name]
    chosen = {id(p) for p in kernels}
    rest = [p for p in block.parameters() if id(p) not in chosen]
    return [Muon(kernels, lr=1.0), torch.optim.AdamW(rest, lr=1.0, weight_decay=1e-4)]


def train(cache: Path) -> Any:
    """Train the block. Resumes from the checkpoint in `cache`, if there is one."""
    torch.manual_seed(0)
    net = IFNet(SHAPE)
    block = tied(net)
    for parameter in block.lastconv.parameters():
        parameter.data *= 0.1  # start with almost no flow

    def part(step: int) -> tuple[bool, float]:
        """Whether the step is in the first phase, which learns only flows, and the finished share of the step's
        phase."""
        return (True, step / MATCHING) if step < MATCHING else (False, (step - MATCHING) / STEPS)

    def rate(step: int) -> float:
        alone, place = part(step)
        falling = min(1, place * 20) * (0.5 + 0.5 * math.cos(math.pi * place)) + 0.02
        return (MATCHING_RATE if alone else RATE) * falling

    def loss_of(step: int) -> tuple[Tensor, float]:
        rng = np.random.default_rng([7, step])
        alone, place = part(step)
        if not alone:
            return loss(net, batch(rng), GUIDED * (1 - 0.9 * place))
        value = matching(block, rng, easy=place < 0.4)
        return value, float(value.detach())

    loop.run(
        "interpolation",
        cache / "checkpoint.pt",
        MATCHING + STEPS,
        optimizers(block),
        rate,
        loss_of,
        lambda: {"block": block.state_dict()},
        lambda saved: block.load_state_dict(saved["block"]),
        [*block.parameters()],
    )
    return block


def main() -> None:
    block = train(CACHE)
    TARGET.parent.mkdir(exist_ok=True)
    save_file({name: value.half().contiguous().clone() for name, value in untied(block).items()}, TARGET)


if __name__ == "__main__":
    main()
