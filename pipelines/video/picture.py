"""An image that somebody sent -> RGB, upright, opaque; refuses what would not fit in memory or takes too long.

Knows: PNG, JPEG, WebP and the first frame of a GIF. Does not know: the size a model wants (`pipelines.upscale`).
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.video import structure
from pipelines.video.process import MediaUnreadable

MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535  # pixels; a PNG of one column would take a pointer for each of its millions of rows
SCANNED_PIXELS = 20 * MAX_PIXELS  # pixels x scans of a JPEG: each scan goes over the whole image
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_QUICK_BYTES = 2 * 2**20
_QUICK_PIXELS = 4_000_000
_QUICK_PARTS = 1000


@dataclass(frozen=True)
class Opened:
    """An image of which only the beginning was read."""

    data: bytes
    parts: int
    scans: int
    pixels: int

    @property
    def is_quick(self) -> bool:
        """Whether even a hostile one is decoded in a fraction of a second."""
        small = len(self.data) <= _QUICK_BYTES and self.parts <= _QUICK_PARTS
        return small and self.pixels * self.scans <= _QUICK_PIXELS


def read_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """RGB image, turned by its EXIF orientation, transparency laid on white.

    MediaUnreadable with code `unsupported_image_format` (not PNG, JPEG, WebP, GIF), `image_too_large` (width x height
    above `max_pixels` or a side above MAX_SIDE, seen before a pixel is decoded) or `image_load_error` (torn, or made of
    too many parts).
    """
    return decode(look(data, max_pixels=max_pixels))


def look(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Opened:
    """Checks the limits without decoding a pixel. Raises as `read_picture`."""
    parts, scans = structure.count(data)
    image = _open(data)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise MediaUnreadable(
            "image_too_large",
            f"the image is {image.width}x{image.height}; at most {max_pixels / 1e6:g} million pixels are read",
        )
    if max(image.size) > MAX_SIDE:
        raise MediaUnreadable(
            "image_too_large", f"the image is {image.width}x{image.height}; a side has at most {MAX_SIDE} pixels"
        )
    if pixels * scans > SCANNED_PIXELS:
        most = SCANNED_PIXELS // pixels
        raise MediaUnreadable("image_load_error", f"the image has {scans} scans; at most {most} are read at its size")
    return Opened(data, parts, scans, pixels)


def decode(opened: Opened) -> Image.Image:
    """As `read_picture`."""
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # Pillow warns of each broken tag, of which there may be thousands
            _open(opened.data).verify()
            image = _open(opened.data)  # verify() leaves the image unusable
            image.load()
            return _flatten(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as e:  # Pillow's decoders raise whatever they like at torn data: OSError, SyntaxError, ValueError
        raise MediaUnreadable("image_load_error", f"the image is damaged: {str(e)[:200]}") from e


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings(action="ignore"):
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise MediaUnreadable("image_too_large", "the image has more pixels than are read") from e
    except UnidentifiedImageError as e:
        message = "the file is empty" if not data else "the image is not a PNG, JPEG, WebP or GIF"
        raise MediaUnreadable("unsupported_image_format", message) from e
    except (OSError, SyntaxError, ValueError) as e:
        raise MediaUnreadable("image_load_error", f"the image is damaged: {e}") from e


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip to white
        levels = image.convert("I").point(lambda level: level * (1 / 257) + 0.5)
        return levels.convert("L").convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
