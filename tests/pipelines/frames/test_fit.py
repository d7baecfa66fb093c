"""Tests how frames are fitted into a size: the geometry against cases computed by hand, the resampling against Pillow
and known images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.frames.fit import FitBox, Mode, fit, fit_box, fit_picture


def gradient(height: int, width: int, count: int = 3) -> torch.Tensor:
    y = torch.linspace(0, 250, height)[:, None].expand(height, width)
    x = torch.linspace(0, 250, width)[None].expand(height, width)
    return torch.stack([torch.stack([x, y, (x + y) / 2]) * (k + 1) / count for k in range(count)]).to(torch.uint8)


def test_geometry() -> None:
    assert fit_box(720, 480, 1920, 1080, "crop") == FitBox(1920, 1280, 0, 100, 1 - 1080 / 1280)
    assert fit_box(720, 480, 1080, 1920, "crop") == FitBox(2880, 1920, 900, 0, 0.625)
    assert fit_box(720, 480, 1920, 1080, "pad") == FitBox(1620, 1080, 150, 0, 0.0)
    assert fit_box(720, 480, 1080, 1920, "pad") == FitBox(1080, 720, 0, 600, 0.0)
    assert fit_box(720, 480, 720, 480, "crop") == fit_box(720, 480, 720, 480, "pad") == FitBox(720, 480, 0, 0, 0.0)
    assert fit_box(1, 4000, 720, 480, "pad") == FitBox(1, 480, 359, 0, 0.0)
    assert fit_box(720, 480, 1080, 1920, "stretch") == FitBox(1080, 1920, 0, 0, 0.0)


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_geometry_always_covers_or_fits(mode: Mode) -> None:
    rng = np.random.default_rng(0)
    for src_w, src_h, dst_w, dst_h in rng.integers(1, 400, (2000, 4)).tolist():
        box = fit_box(src_w, src_h, dst_w, dst_h, mode)
        spare_w, spare_h = box.scaled_width - dst_w, box.scaled_height - dst_h
        sign = 1 if mode == "crop" else -1
        assert sign * spare_w >= 0
        assert sign * spare_h >= 0
        assert 0 in (spare_w, spare_h)
        assert (box.left, box.top) == (abs(spare_w) // 2, abs(spare_h) // 2)
        assert 0 <= box.lost < 1


@pytest.mark.parametrize("bad", [(0, 1, 1, 1, "crop"), (1, 1, 1, -1, "pad"), (1, 1, 1, 1, "squeeze")])
def test_geometry_refuses(bad: tuple[int, int, int, int, Mode]) -> None:
    with pytest.raises(ValueError):
        fit_box(*bad)


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_the_same_size_changes_no_bit(mode: Mode, dtype: torch.dtype) -> None:
    frames = torch.rand(3, 3, 24, 40).mul(255 if dtype == torch.uint8 else 1).to(dtype)
    assert torch.equal(fit(frames, 40, 24, mode), frames)


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(96, 54), (54, 96), (17, 31), (200, 200)])
def test_agrees_with_pillow(mode: Mode, size: tuple[int, int]) -> None:
    frames = gradient(48, 72, 2)
    ours = fit(frames, *size, mode)
    assert ours.shape == (2, 3, size[1], size[0])
    assert ours.dtype == torch.uint8
    for k in range(2):
        theirs = fit_picture(Image.fromarray(frames[k].permute(1, 2, 0).numpy()), *size, mode)
        assert theirs.size == size
        assert np.abs(np.asarray(theirs).astype(int) - ours[k].permute(1, 2, 0).numpy()).max() <= 1


def test_shrinking_is_antialiased() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    assert (fit(stripes, 16, 16, "crop")[..., 2:-2] - 0.5).abs().max() < 0.02


def test_edges_are_black_and_the_middle_stays_in_the_middle() -> None:
    out = fit(torch.full((1, 3, 10, 20), 200, dtype=torch.uint8), 20, 30, "pad")
    assert (out[:, :, :10] == 0).all()
    assert (out[:, :, 20:] == 0).all()
    assert (out[:, :, 10:20] == 200).all()
    mark = torch.zeros(1, 3, 20, 60)
    mark[..., 28:32] = 1
    assert fit(mark, 20, 20, "crop")[0, 0, 10].argmax() in (8, 9, 10, 11)


def test_stretching_loses_no_edge_and_adds_none() -> None:
    frames = torch.full((1, 3, 20, 60), 200, dtype=torch.uint8)
    frames[..., :6] = frames[..., :2, :] = 40
    out = fit(frames, 20, 40, "stretch")[0, 0]
    assert (out[:3] < 60).all() and (out[:, 0] < 60).all(), "the top row and the left edge are still there"
    assert (out[8:, 4:] == 200).all(), "no black border is added"


def test_hard_edges_stay_in_range() -> None:
    hard = (torch.rand(2, 3, 16, 16) > 0.5).float()
    out = fit(hard, 50, 50, "crop")
    assert out.min() >= 0
    assert out.max() <= 1
    as_bytes = fit((hard * 255).to(torch.uint8), 50, 50, "crop").float() / 255
    assert (as_bytes - out).abs().max() <= 0.5 / 255 + 1e-6


def test_pieces_equal_the_whole() -> None:
    frames = gradient(24, 40, 19)
    whole = fit(frames, 60, 60, "crop")
    assert torch.equal(torch.cat([fit(p, 60, 60, "crop") for p in torch.split(frames, 5)]), whole)
    assert len(fit(frames[:0], 60, 60, "crop")) == 0


@pytest.mark.parametrize("bad", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8).long()])
def test_other_tensors_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="frames must be"):
        fit(bad, 4, 4, "crop")


def test_geometry_needs_no_torch() -> None:
    code = "import sys, pipelines.frames.fit, pipelines.video; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
