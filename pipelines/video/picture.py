"""A picture that somebody sent -> RGB, upright, opaque; refuses what would not fit in memory.

Knows: PNG, JPEG, WebP and the first frame of a GIF. Does not know: the size a model wants (`pipelines.upscale`).
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.video.process import MediaUnreadable

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def read_picture(data: bytes, *, max_pixels: int = 40_000_000) -> Image.Image:
    """RGB picture, turned by its EXIF orientation, transparency laid on white.

    MediaUnreadable with code `unsupported_image_format` (not PNG, JPEG, WebP, GIF), `image_too_large` (width x height
    above `max_pixels`, seen before a pixel is decoded) or `image_load_error` (torn).
    """
    image = _open(data)
    if image.width * image.height > max_pixels:
        raise MediaUnreadable(
            "image_too_large",
            f"the image is {image.width}x{image.height}; at most {max_pixels / 1e6:g} million pixels are read",
        )
    try:
        image.verify()
        image = _open(data)  # verify() leaves the picture unusable
        image.load()
        return _flatten(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as e:  # Pillow's decoders raise whatever they like at torn data: OSError, SyntaxError, ValueError
        raise MediaUnreadable("image_load_error", f"the image is damaged: {e}") from e


def _open(data: bytes) -> Image.Image:
    try:
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
        levels = np.asarray(image).astype(np.float32) / 257.0
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
