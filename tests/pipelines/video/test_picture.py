"""Images of all supported kinds become upright, opaque RGB. Other images are refused, and the message names their
format."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from pipelines.video import MediaUnreadable, read_picture
from tests.rigs.scenes import P3, icc, press, with_chunk
from tests.rigs.videos import code_of


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
    exif[0x0112] = 6  # display rotated clockwise by 90 degrees
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
    """A PNG whose header states this size, without the pixels for it."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [8_001, 10_000, 50_000])
def test_decompression_bombs_are_refused_unopened(side: int) -> None:
    assert code_of(lambda: read_picture(png_header(side, side))) == "image_too_large"


def test_pictures_that_are_none() -> None:
    assert code_of(lambda: read_picture(b"")) == "unsupported_image_format"
    assert code_of(lambda: read_picture(b"<svg/>")) == "unsupported_image_format"
    assert code_of(lambda: read_picture(encoded(Image.new("RGB", (9, 9)), "TGA"))) == "unsupported_image_format"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = encoded(noise, kind)
        assert code_of(lambda d=data: read_picture(d[: len(d) // 2])) == "image_load_error"  # type: ignore[misc]


def test_a_damaged_avif_is_refused() -> None:
    """The AVIF reader raises exceptions that no other reader raises; it may raise them while it opens the file."""
    data = encoded(Image.new("RGBA", (64, 64), (200, 30, 40, 128)), "AVIF")
    for place in range(0, 400, 3):
        hurt = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            read_picture(hurt)
        except MediaUnreadable as e:
            assert e.code in ("image_load_error", "unsupported_image_format", "image_too_large")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n%", "a PDF document"),
        (b"8BPS\0\1" + bytes(30), "a Photoshop document"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "an SVG drawing"),
        (b"<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b'{"error": "gone"}', "a JSON document"),
        (b"\0\0\0\x18ftypmp42" + bytes(30), "an MP4 video"),
        (b"\x1aE\xdf\xa3" + bytes(30), "a WebM or MKV video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "a JPEG XL image"),
    ],
)
def test_the_message_names_what_was_sent_and_what_is_taken(data: bytes, name: str) -> None:
    with pytest.raises(MediaUnreadable, match=name) as e:
        read_picture(data)
    assert "PNG, JPEG, WebP, GIF, AVIF, HEIC" in str(e.value)


@pytest.mark.parametrize("size", [(8064, 6048), (8160, 6120), (16_000, 3_900)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_photographs_come_back_smaller(kind: str, size: tuple[int, int]) -> None:
    left = Image.new("L", (2, 1))
    left.putpixel((0, 0), 200)
    data = encoded(left.resize(size, Image.Resampling.NEAREST), kind)
    image = read_picture(data)
    assert image.size == (size[0] // 2, size[1] // 2)
    assert [image.getpixel((x, 100)) for x in (99, size[0] // 2 - 99)] == [(200,) * 3, (0,) * 3]


def test_the_largest_jpegs_take_little_memory() -> None:
    """A JPEG of 200 megapixels, which would need 800 MB at full size."""
    program = (
        "import sys; from pipelines import child; child.confine(400 * 2**20); "
        "from pipelines.video.picture import read_picture; print(read_picture(sys.stdin.buffer.read()).size)"
    )
    data = encoded(Image.new("L", (16_320, 12_240), 90), "JPEG")
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    assert done.stdout.strip() == b"(4080, 3060)", done.stderr.decode()


def test_an_exif_turned_large_photograph() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(encoded(Image.new("L", (8064, 6048)), "JPEG", exif=exif)).size == (3024, 4032)


def noise(width: int = 160, height: int = 120) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("missing", [1, 2, 40])
def test_a_jpeg_without_its_end_is_read(missing: int, options: dict[str, Any]) -> None:
    whole = encoded(noise(), "JPEG", **options)
    read = np.asarray(read_picture(whole[:-missing])).astype(int)
    rows = slice(0, 88 if missing > 2 and "progressive" not in options else 120)
    assert np.abs(read - np.asarray(read_picture(whole)))[rows].mean() < (9 if "progressive" in options else 0.001)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_a_jpeg_that_is_cut_off_is_refused(share: float, options: dict[str, Any]) -> None:
    whole = encoded(noise(), "JPEG", **options)
    assert code_of(lambda: read_picture(whole[: int(len(whole) * share)])) == "image_load_error"


def test_a_png_without_its_last_chunk_is_read_and_one_without_pixels_is_not() -> None:
    whole = encoded(noise(), "PNG")
    assert np.array_equal(np.asarray(read_picture(whole[:-12])), np.asarray(noise()))
    assert code_of(lambda: read_picture(whole[:-13])) == "image_load_error"
    assert code_of(lambda: read_picture(whole[:33])) == "unsupported_image_format"


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
def test_large_text_beside_the_pixels_does_not_matter(name: bytes) -> None:
    """In practice, large text in a PNG is an image generator's workflow or an editor's history, for example."""
    text = b"workflow" * 1_000_000
    packed = zlib.compress(text)
    content = {b"tEXt": text, b"zTXt": b"\0" + packed, b"iTXt": b"\1\0\0\0" + packed}[name]
    image = read_picture(with_chunk(encoded(noise(), "PNG"), name, b"a\0" + content))
    assert np.array_equal(np.asarray(image), np.asarray(noise()))


def test_a_large_profile_is_read_and_a_broken_one_left_out_with_a_note() -> None:
    large = icc(P3, None, extra=2 * 2**20)
    red = Image.new("RGB", (8, 8), (200, 60, 50))
    for kind in ("PNG", "JPEG"):
        image = read_picture(encoded(red, kind, icc_profile=large, **({"quality": 100} if kind == "JPEG" else {})))
        assert image.getpixel((4, 4))[0] > 208 and "note" not in image.info
    for broken in (b"none", icc(P3, None)[:200], b"\xff" * 5000):
        image = read_picture(encoded(red, "PNG", icc_profile=broken))
        assert image.getpixel((4, 4)) == (200, 60, 50)
        assert image.info["note"] == ("colour profile", "sRGB", "its colour profile is damaged")


def test_deep_pictures() -> None:
    deep = np.asarray(noise(32, 32)).astype(np.uint16) * 257
    grey = Image.fromarray(deep[..., 0])
    assert np.array_equal(np.asarray(read_picture(encoded(grey, "TIFF")))[..., 0], np.asarray(noise(32, 32))[..., 0])
    floats = Image.fromarray((deep[..., 0] / 65535).astype(np.float32))
    assert np.array_equal(np.asarray(read_picture(encoded(floats, "TIFF")))[..., 0], np.asarray(noise(32, 32))[..., 0])


def test_cmyk_goes_through_its_profile() -> None:
    """A made-up press whose colours follow from its profile, not from a standard CMYK conversion."""
    data = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", icc_profile=press(), quality=100)
    assert np.abs(np.array(read_picture(data).getpixel((8, 8))) - (0, 138, 200)).max() <= 6
    assert read_picture(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")).getpixel((8, 8)) == (0, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "MPO"])
def test_every_format_is_turned_once(kind: str) -> None:
    register_heif_opener()  # for writing
    image = Image.new("RGB", (64, 32), "black")
    image.paste((255, 255, 255), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()  # pillow_heif writes this as HEIC's rotation box; HEIC's EXIF has no effect
    upright = read_picture(encoded(image, kind, **({} if kind == "HEIF" else {"exif": exif})))
    assert upright.size == (32, 64)
    assert np.asarray(upright)[:28].mean() > 240 > 15 > np.asarray(upright)[36:].mean()
