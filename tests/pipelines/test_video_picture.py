"""Pictures as people send them come back as upright, opaque RGB, or are refused by name."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.video import read_picture
from tests.pipelines.films import code_of


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pictures_come_back_as_rgb(kind: str) -> None:
    image = read_picture(encoded(Image.new("RGB", (20, 10), (200, 30, 40)), kind))
    assert (image.mode, image.size) == ("RGB", (20, 10))
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 40)).max() < 6


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "black")
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    upright = read_picture(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (10, 20)
    assert np.asarray(upright)[:8].mean() > 240 > 15 > np.asarray(upright)[12:].mean()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    pixels = np.asarray(read_picture(encoded(image.convert(mode), "PNG")))
    assert (pixels[:, 2:] == 255).all()
    assert (pixels[:, :2] == 0).all()


def test_deep_grey_keeps_its_shades() -> None:
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert np.array_equal(np.asarray(read_picture(encoded(deep, "PNG")))[..., 0].ravel(), np.arange(256))


def test_cmyk_and_palette_and_bilevel() -> None:
    for mode, kind in (("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("L", "JPEG")):
        assert read_picture(encoded(Image.new("RGB", (9, 9), "white").convert(mode), kind)).mode == "RGB"


def png_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [7_000, 10_000, 50_000])
def test_decompression_bombs_are_refused_unopened(side: int) -> None:
    assert code_of(lambda: read_picture(png_header(side, side))) == "image_too_large"


def test_pictures_that_are_none() -> None:
    assert code_of(lambda: read_picture(b"")) == "unsupported_image_format"
    assert code_of(lambda: read_picture(b"<svg/>")) == "unsupported_image_format"
    assert code_of(lambda: read_picture(encoded(Image.new("RGB", (9, 9)), "TIFF"))) == "unsupported_image_format"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = encoded(noise, kind)
        assert code_of(lambda d=data: read_picture(d[: len(d) // 2])) == "image_load_error"  # type: ignore[misc]
