"""Fit frames and images to an exact size: antialiased resampling with a centred crop, black edges, or stretching.

torch is imported only where frames are resampled, so that the geometry can be used without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from PIL import Image

if TYPE_CHECKING:
    import torch

Mode = Literal["crop", "pad", "stretch"]

_FRAMES_AT_ONCE = 8  # limits the float32 copies: 8 frames of 3840x2160 are 0.8 GB


@dataclass(frozen=True)
class FitBox:
    """How to bring an image to another size, in pixels.

    The image is first resampled to `scaled_width` x `scaled_height`. "crop": the result is the window of the target
    size whose corner is at (`left`, `top`) of the scaled image. "pad": the scaled image is placed at (`left`, `top`) of
    the result. `lost` is the share of the image (0..1) that the crop removes, 0 for "pad". "stretch": the image is
    resampled to the target size, whatever its shape, and nothing is lost.
    """

    scaled_width: int
    scaled_height: int
    left: int
    top: int
    lost: float


def fit_box(src_w: int, src_h: int, dst_w: int, dst_h: int, mode: Mode) -> FitBox:
    """How to fit an image to a target size. "crop" scales to the smallest size that covers the target, "pad" to the
    largest size that fits into the target, and "stretch" to the target size itself. For "crop" and "pad" the image is
    centred; an odd pixel is at the right or bottom.

    Raises ValueError for a size below 1 or an unknown mode.
    """
    if min(src_w, src_h, dst_w, dst_h) < 1:
        raise ValueError(f"sizes must be positive: {src_w}x{src_h} to {dst_w}x{dst_h}")
    if mode not in get_args(Mode):
        raise ValueError(f"fit {mode!r} is none of {', '.join(get_args(Mode))}")
    if mode == "stretch":
        return FitBox(dst_w, dst_h, 0, 0, 0.0)
    source_is_wider = src_w * dst_h > dst_w * src_h
    if source_is_wider == (mode == "crop"):  # the height decides
        w, h = round(src_w * dst_h / src_h), dst_h
    else:
        w, h = dst_w, round(src_h * dst_w / src_w)
    if mode == "crop":
        w, h = max(w, dst_w), max(h, dst_h)
        return FitBox(w, h, (w - dst_w) // 2, (h - dst_h) // 2, 1 - dst_w * dst_h / (w * h))
    w, h = min(max(w, 1), dst_w), min(max(h, 1), dst_h)
    return FitBox(w, h, (dst_w - w) // 2, (dst_h - h) // 2, 0.0)


def fit(frames: torch.Tensor, width: int, height: int, mode: Mode) -> torch.Tensor:
    """[T, 3, H, W] -> [T, 3, height, width]; same dtype and device.

    Frames are uint8, or floating in 0..1 (black is 0, bicubic overshoot is clamped). Frames are resampled one by one,
    so a clip may come in pieces. Frames that already have the size are returned unchanged. Raises ValueError for
    another shape or dtype, and wherever `fit_box` raises it.
    """
    import torch

    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must be [T, 3, H, W], not {list(frames.shape)}")
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise ValueError(f"frames must be uint8 or floating, not {frames.dtype}")
    box = fit_box(frames.shape[3], frames.shape[2], width, height, mode)
    if frames.shape[2:] == (height, width):
        return frames
    out = frames.new_zeros((len(frames), 3, height, width))
    for k in range(0, len(frames), _FRAMES_AT_ONCE):
        piece = _resample(frames[k : k + _FRAMES_AT_ONCE], box.scaled_width, box.scaled_height)
        target = out[k : k + _FRAMES_AT_ONCE]
        if mode != "pad":
            target.copy_(piece[:, :, box.top : box.top + height, box.left : box.left + width])
        else:
            target[:, :, box.top : box.top + box.scaled_height, box.left : box.left + box.scaled_width] = piece
    return out


def _resample(frames: torch.Tensor, width: int, height: int) -> torch.Tensor:
    import torch

    if frames.shape[2:] == (height, width):
        return frames
    # float32, because on a CPU the antialiased kernel does not support float16, and each device rounds uint8
    # differently.
    scaled = torch.nn.functional.interpolate(
        frames.float(), size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
    scaled = scaled.round().clamp(0, 255) if frames.dtype == torch.uint8 else scaled.clamp(0, 1)
    return scaled.to(frames.dtype)


def fit_picture(picture: Image.Image, width: int, height: int, mode: Mode) -> Image.Image:
    """An RGB image of exactly `width` x `height`, resampled as by `fit`. Raises ValueError wherever `fit_box` does."""
    picture = picture.convert("RGB")
    box = fit_box(picture.width, picture.height, width, height, mode)
    if picture.size != (box.scaled_width, box.scaled_height):
        picture = picture.resize((box.scaled_width, box.scaled_height), Image.Resampling.BICUBIC)
    if mode != "pad":
        return picture.crop((box.left, box.top, box.left + width, box.top + height))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(picture, (box.left, box.top))
    return canvas
