"""Transparent images and clips are blended with white, whatever the colour of their transparent pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.video import read_picture, read_video
from pipelines.video.probe import check_clip
from tests.pipelines.video.test_colours import P3_ICC, P3_LEVELS, converted, heic
from tests.rigs.scenes import CLOSE, SCENE, distance, encode, saved

YUVA = ("-vf", "scale=out_color_matrix=smpte170m:flags=accurate_rnd+full_chroma_int", "-pix_fmt")
HLG_ALPHA = converted("m=2020_ncl:p=2020:t=arib-std-b67", "yuva444p10le")


def transparent() -> np.ndarray:
    """The scene, opaque except for its white patch, whose pixels are transparent black."""
    layers = np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])
    layers[96:, :32] = 0
    return layers


HOLE = SCENE.copy()
HOLE[96:, :32] = 255  # white

TRANSPARENT: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: saved(transparent(), "PNG"),
    "PNG, Display P3": lambda: saved(np.dstack([P3_LEVELS, transparent()[..., 3]]), "PNG", icc_profile=P3_ICC),
    "PNG, palette": lambda: saved(Image.fromarray(transparent()).quantize(64), "PNG"),
    "WebP": lambda: saved(transparent(), "WEBP", lossless=True),
    "AVIF": lambda: saved(transparent(), "AVIF", quality=100, subsampling="4:4:4"),
    "HEIC": lambda: heic(transparent()),
    "TIFF": lambda: saved(transparent(), "TIFF"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pictures_lie_on_white(name: str) -> None:
    assert distance(np.asarray(read_picture(TRANSPARENT[name]())), HOLE) <= CLOSE


TRANSPARENT_CLIPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "WebM, VP9": ("webm", (*YUVA, "yuva420p", "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "1", "-cpu-used", "8")),
    "WebM, VP8": ("webm", (*YUVA, "yuva420p", "-c:v", "libvpx", "-auto-alt-ref", "0", "-b:v", "20M", "-qmax", "4")),
    "MKV, VP9": ("mkv", (*YUVA, "yuva420p", "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "1", "-cpu-used", "8")),
    "MOV, ProRes 4444": ("mov", (*YUVA, "yuva444p10le", "-c:v", "prores_ks", "-profile:v", "4444", "-qscale:v", "2")),
    "MOV, PNG": ("mov", ("-c:v", "png")),
    "MOV, Animation": ("mov", ("-c:v", "qtrle")),
    "MKV, FFV1": ("mkv", (*YUVA, "yuva420p", "-c:v", "ffv1")),
    "MKV, FFV1 in RGB": ("mkv", ("-pix_fmt", "bgra", "-c:v", "ffv1")),
    "AVI, Ut Video": ("avi", ("-pix_fmt", "gbrap", "-c:v", "utvideo")),
    "APNG": ("apng", ("-c:v", "apng")),
    "WebP": ("webp", ("-c:v", "libwebp_anim", "-lossless", "1")),
    "MOV, ProRes 4444 in HLG": ("mov", (*HLG_ALPHA, "-c:v", "prores_ks", "-profile:v", "4444", "-qscale:v", "2")),
}


@pytest.mark.parametrize("name", TRANSPARENT_CLIPS)
def test_transparent_clips_lie_on_white(name: str, tmp_path: Path) -> None:
    suffix, arguments = TRANSPARENT_CLIPS[name]
    path = encode(tmp_path / f"clip.{suffix}", transparent(), *arguments, pixels="rgba")
    check_clip(path)
    frames = read_video(path, max_frames=99, max_pixels=10**6, max_seconds=9).frames
    assert distance(frames[2], HOLE) <= CLOSE
    small = read_video(path, max_frames=99, max_pixels=96 * 64, source_pixels=10**6, max_seconds=9).frames[2]
    assert small.shape == (64, 96, 3)
    assert small[-12:, :12].min() >= 255 - CLOSE


def test_a_transparent_gif_lies_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (0, 0, 0, 0)) for _ in range(4)]
    for n, frame in enumerate(frames):
        frame.paste((200, 30, 30, 255), (n * 8, 0, n * 8 + 8, 32))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    read = read_video(tmp_path / "a.gif", max_frames=99, max_pixels=10**6, max_seconds=9).frames
    assert (read[2, :, :16] == 255).all() and read[2, 16, 20].tolist() == [200, 30, 30]
