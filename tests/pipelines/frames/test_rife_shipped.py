"""The shipped interpolation network: it loads like RIFE's networks and interpolates better than blending."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.frames.rife import IFNet, interpolate, load
from training.pictures import picture
from training.shapes import COLORS, distance
from weights.catalog import WeightsError
from weights.interpolation import SHIPPED, rife_weights

Motion = Callable[[float], Tensor]  # time in frames -> the frame at that time


@pytest.fixture(scope="module")
def net() -> IFNet:
    return load(SHIPPED, "cpu")


def moving_shape(seed: int, height: int, width: int) -> Motion:
    """A shape that moves, turns and grows slightly. Independent code draws it, so that it is not a scene from the
    training."""
    random = np.random.default_rng([31, seed])
    shape = ("circle", "square", "triangle", "star")[seed % 4]
    unit, angle = min(height, width) / 64, random.uniform(0, 2 * math.pi)
    color, ground = (np.array(COLORS[name], np.float32) for name in random.choice(list(COLORS), 2, replace=False))
    radius, grow, turn = random.uniform(9, 16), random.uniform(0.98, 1.02), random.uniform(-0.05, 0.05)
    x, y = width / unit / 2 + random.uniform(-12, 12), 32 + random.uniform(-8, 8)

    def at(t: float) -> Tensor:
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
        dx, dy = xs - (x + 2.5 * t * math.cos(angle)) * unit, ys - (y + 2.5 * t * math.sin(angle)) * unit
        cos, sin = math.cos(turn * t), math.sin(turn * t)
        field = distance(shape, dx * cos + dy * sin, dy * cos - dx * sin, radius * unit * grow**t)
        alpha = np.clip(0.5 - field, 0, 1)[..., None]
        return torch.from_numpy((alpha * color + (1 - alpha) * ground).transpose(2, 0, 1).astype(np.float32)) / 255

    return at


def drifting_noise(seed: int, height: int, width: int) -> Motion:
    """A window that moves over a random image; its frames are exact at multiples of a quarter of a frame."""
    random = np.random.default_rng([32, seed])
    step = max(1, round(min(height, width) / 64 / 2))
    dx, dy = step * random.choice([-1, 1]), step * int(random.integers(-1, 2))
    big = torch.from_numpy(picture(random, height + 20 * step, width + 20 * step)[0]).permute(2, 0, 1).float() / 255

    def at(t: float) -> Tensor:
        left, top = 10 * step + round(4 * t) * dx, 10 * step + round(4 * t) * dy
        return big[:, top : top + height, left : left + width]

    return at


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-6))


def gains(net: IFNet, motions: list[Motion]) -> list[float]:
    """By how many dB the PSNR of the network's frames exceeds that of blended frames, at 1/4, 1/2 and 3/4 of the
    interval."""
    found = []
    for motion in motions:
        a, b = motion(0), motion(1)
        drawn = list(interpolate(net, [a, b], 1, 4))[1:4]
        for k, frame in enumerate(drawn, 1):
            t = k / 4
            found.append(psnr(frame, motion(t)) - psnr(a * (1 - t) + b * t, motion(t)))
    return found


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (128, 192), pytest.param((480, 720), marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [moving_shape, drifting_noise])
def test_it_beats_blending(net: IFNet, kind: Callable[[int, int, int], Motion], size: tuple[int, int]) -> None:
    found = gains(net, [kind(seed, *size) for seed in range(2 if size[0] > 128 else 12)])
    assert np.mean(found) > 4, f"{np.mean(found):.1f} dB"
    assert np.mean(np.array(found) > 0) > 0.9, f"worse than blending: {np.mean(np.array(found) <= 0):.2f}"


def test_called_by_itself_it_draws_the_same(net: IFNet) -> None:
    a, b = (moving_shape(3, 50, 70)(t) for t in (0, 1))
    drawn = torch.stack(list(interpolate(net, [a, b], 1, 4))[1:4])
    alone = net(a.expand(3, -1, -1, -1), b.expand(3, -1, -1, -1), torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(alone, drawn)
    torch.testing.assert_close(net(a[None], b[None], 0.25)[0], drawn[0])
    assert (drawn[0] - drawn[1]).abs().max() > 0.1


def test_what_rests_stays_as_it_is(net: IFNet) -> None:
    still = moving_shape(3, 64, 96)(0)
    (drawn,) = list(interpolate(net, [still, still], 1, 2))[1:2]
    assert psnr(drawn, still) > 35


def test_the_file_is_small_and_read_like_any_other(net: IFNet, tmp_path: Path) -> None:
    assert SHIPPED.stat().st_size < 2**20
    assert (net.shape.scales, net.shape.multiple) == ((8, 4, 2, 1), 32)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert rife_weights() == SHIPPED
    own = tmp_path / "flownet.pkl"
    own.write_bytes(b"x")
    assert rife_weights(own) == own
    for wrong in (tmp_path / "gone.pkl", tmp_path / "flownet.onnx", tmp_path):
        with pytest.raises(WeightsError, match=r"no such file|not a RIFE weights file"):
            rife_weights(wrong)
