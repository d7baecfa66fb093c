"""Read an input image as upright, opaque sRGB, and refuse one that takes too much memory or time.

In an animation or a file with several pages, only the first image is read. Images of more than MAX_PIXELS are read at a
half, a quarter or an eighth of their size. A JPEG is decoded directly at the smaller size, which takes little memory.
Other images are reduced right after decoding.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import AvifImagePlugin, Image, ImageChops, ImageOps, PngImagePlugin, UnidentifiedImageError

from pipelines.video import colour, deep, kinds, structure
from pipelines.video.process import MediaUnreadable

MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535  # pixels; decoders keep a pointer for each row, and a PNG of one column can have millions of rows
READ_PIXELS = 64_000_000  # pixels in the file; enough for panoramas of phones
READ_JPEG_PIXELS = 256_000_000  # enough for phone cameras of 200 megapixels
SCANNED_PIXELS = 800_000_000  # pixels x scans of a JPEG, because each scan covers the whole image
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "DIB", "JPEG2000")
_QUICK_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF")
_QUICK_BYTES = 2 * 2**20
_QUICK_PIXELS = 4_000_000
_QUICK_PARTS = 1000
_QUICK_PROFILE = 2**14  # bytes
_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
_LAST_ROWS = 32  # rows that may be missing in a JPEG without an end marker

# Pillow's own limits are too low for the text that image generators and editors write
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 * 2**20
Image.MAX_IMAGE_PIXELS = READ_JPEG_PIXELS // 2  # Pillow refuses images above twice this number
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread takes address space, which is limited


@dataclass(frozen=True)
class Opened:
    """An image whose header was read. `shrink`: the image will be decoded at 1 / `shrink` of its size (`shrink` is 1,
    2, 4 or 8)."""

    data: bytes
    parts: structure.Parts
    pixels: int
    shrink: int
    is_plain: bool

    @property
    def is_png(self) -> bool:
        return self.data.startswith(b"\x89PNG")

    @property
    def is_quick(self) -> bool:
        """Whether decoding takes a fraction of a second, even if the file is hostile."""
        small = len(self.data) <= _QUICK_BYTES and self.parts.count <= _QUICK_PARTS
        return self.is_plain and small and self.pixels * self.parts.scans <= _QUICK_PIXELS


def read_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """RGB image in sRGB, rotated by its EXIF orientation, transparency blended with white. `info["note"]`, if present,
    is a note about the colours: asked, used, reason.

    Raises MediaUnreadable with code `unsupported_image_format` (none of `kinds.PICTURES`), `image_too_large` (width x
    height above READ_PIXELS or a side above MAX_SIDE, seen before a pixel is decoded) or `image_load_error` (torn, or
    made of too many parts). Images above `max_pixels` come back smaller.
    """
    return decode(look(data, max_pixels=max_pixels))


def look(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Opened:
    """Check the limits without decoding a pixel. Raises the same exceptions as `read_picture`."""
    parts = structure.count(data)
    image = _open(data)
    pixels = image.width * image.height
    most = READ_JPEG_PIXELS if image.format in ("JPEG", "MPO") else READ_PIXELS
    if pixels > most:
        raise MediaUnreadable(
            "image_too_large",
            f"the image is {image.width}x{image.height}; at most {most / 1e6:g} million pixels are read",
        )
    if max(image.size) > MAX_SIDE:
        raise MediaUnreadable(
            "image_too_large", f"the image is {image.width}x{image.height}; a side has at most {MAX_SIDE} pixels"
        )
    if pixels * parts.scans > SCANNED_PIXELS:
        most = SCANNED_PIXELS // pixels
        raise MediaUnreadable(
            "image_load_error", f"the image has {parts.scans} scans; at most {most} are read at its size"
        )
    if not parts.begun:
        raise MediaUnreadable("image_load_error", "the image is damaged: it ends too early")
    shrink = next((n for n in (1, 2, 4) if pixels <= max_pixels * n * n), 8)
    profile = image.info.get("icc_profile") or b""
    codes = colour.codes_of(image, data)
    plain = image.format in _QUICK_FORMATS and len(profile) <= _QUICK_PROFILE and not (codes and codes.hdr)
    return Opened(data, parts, pixels, shrink, plain)


def decode(opened: Opened) -> Image.Image:
    """Decode the image like `read_picture`."""
    hdr = None
    try:
        # a file may have thousands of broken tags, and Pillow warns of each
        with warnings.catch_warnings(action="ignore"):
            if opened.parts.ended or opened.is_png:
                data = opened.data if opened.parts.ended else opened.data + _END_OF_PNG
                _open(data).verify()
                codes = colour.codes_of(_open(data), data)  # verify() leaves the image unusable
                hdr = codes.hdr if codes else None
                if codes and hdr:
                    image = deep.read(lambda: _open(data), data, codes, opened.shrink)
                else:
                    image = _loaded(data, opened.shrink)
            else:
                image = _unended(opened)
            profile = None if hdr else colour.profile_of(image, opened.data)
            image = _one_of_few(ImageOps.exif_transpose(image))
            if opened.shrink > 1 and image.width * image.height == opened.pixels:
                image = image.reduce(opened.shrink)
            image, broken = colour.to_srgb(image, profile)
            image = _opaque(image)
    except MemoryError:
        raise
    except MediaUnreadable:
        raise
    except Exception as e:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others for torn data
        raise MediaUnreadable("image_load_error", f"the image is damaged: {str(e)[:200]}") from e
    image.info.clear()
    if broken is not None:
        image.info["note"] = ("colour profile", "sRGB", broken)
    elif hdr is not None:
        image.info["note"] = (f"{hdr} (HDR)", "sRGB", "the model knows no high dynamic range")
    return image


def _open(data: bytes) -> Image.Image:
    kind = kinds.named(data)
    formats = (*_FORMATS, *_heif()) if kind and "HEIC" in kind else _FORMATS
    try:
        with warnings.catch_warnings(action="ignore"):
            return Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise MediaUnreadable("image_too_large", "the image has more pixels than are read") from e
    except UnidentifiedImageError as e:
        message = "the image is not a PNG, JPEG, WebP or GIF, nor an AVIF, HEIC, TIFF, BMP or JPEG 2000"
        if kind:
            message = f"the file is {kind}, or it is damaged; {kinds.PICTURES} are read"
        if not data:
            message = "the file is empty"
        raise MediaUnreadable("unsupported_image_format", message) from e
    except MemoryError:
        raise
    except Exception as e:  # as in `decode`: AVIF's raises RuntimeError
        raise MediaUnreadable("image_load_error", f"the image is damaged: {str(e)[:200]}") from e


def _heif() -> tuple[str]:
    from pillow_heif import register_heif_opener  # libraries of 25 MB that few processes need

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return ("HEIF",)


def _loaded(data: bytes, shrink: int) -> Image.Image:
    image = _open(data)
    if shrink > 1:
        image.draft(image.mode, (image.width // shrink, image.height // shrink))  # a JPEG is decoded at that size
    image.load()
    return image


def _unended(opened: Opened) -> Image.Image:
    """Decode a JPEG that lacks its end marker. Raises MediaUnreadable if more than a few of the last rows are missing.

    The file is decoded twice, with different bytes appended. Rows that differ between the two images are missing from
    the file, because the decoder made these rows from the appended bytes.
    """
    data, end = opened.data.removesuffix(b"\xff"), b"\xff\xd9"
    image = _loaded(data + end, opened.shrink)
    other = _loaded(data + b"\x55\xaa" * 512 + end, opened.shrink)
    differing = ImageChops.difference(image, other).getbbox()
    if differing is not None and differing[1] < image.height - _LAST_ROWS:
        raise MediaUnreadable("image_load_error", "the image is damaged: it ends too early")
    return image


def _one_of_few(image: Image.Image) -> Image.Image:
    """Convert to one of L, LA, RGB, RGBA, CMYK and LAB."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip to white
        levels = image.convert("I").point(lambda level: level * (1 / 257) + 0.5)
        return levels.convert("L")
    if image.mode == "F":
        brightest = image.getextrema()[1]
        whole = 255 if isinstance(brightest, float) and brightest <= 1.0 else 1
        return image.point(lambda level: level * whole + 0.5).convert("L")
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
