"""Convert an image of standard range to sRGB by its ICC profile or its colour tags (PNG, AVIF, HEIC).

Colour tags are turned into a profile, so that one library does all conversions. `pipelines.video.deep` converts high
dynamic range.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageChops, ImageCms

Matrix = tuple[tuple[float, float, float], ...]
Primaries = tuple[float, ...]  # x and y of white, red, green and blue

_D65 = (0.3127, 0.3290)
SRGB: Primaries = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB: Primaries = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
# primaries by their number in ITU-T H.273, which PNG's cICP chunk and the nclx boxes of AVIF and HEIC use
PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_NO_TABLE = ImageCms.Flags.NOOPTIMIZE  # the steps of a table are too coarse for Lab
_D50 = (0.9642, 1.0, 0.8249)
_STEPS = 255 * 4 + 1  # points of a curve; they include all 8-bit levels
_SAME = 2  # of 255; a profile that changes no colour by more than this counts as sRGB
_LEVELS = bytes(v for r in range(0, 256, 51) for g in range(0, 256, 51) for b in range(0, 256, 51) for v in (r, g, b))
_SPACES = {"RGB ": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",), "LAB ": ("LAB",)}


@dataclass(frozen=True)
class Codes:
    """Numbers of H.273. `full`: whether samples use their full range."""

    primaries: int
    transfer: int
    matrix: int
    full: bool

    @property
    def hdr(self) -> str | None:
        return {16: "PQ", 18: "HLG"}.get(self.transfer)


def codes_of(image: Image.Image, data: bytes) -> Codes | None:
    """The codes that describe the image's colours. Returns None if the image has no codes, or if it is an AVIF or HEIC
    with an ICC profile, because the profile takes precedence. `image`: opened."""
    if image.format == "PNG":
        at = data.find(b"\0\0\0\x04cICP", 8, max(8, data.find(b"IDAT")))
        return None if at < 0 else Codes(data[at + 8], data[at + 9], data[at + 10], bool(data[at + 11]))
    if image.format in ("AVIF", "HEIF") and not image.info.get("icc_profile"):
        at = data.find(b"colrnclx", 0, 2**16)
        if 0 < at <= len(data) - 15:
            primaries, transfer, matrix, full = struct.unpack(">3HB", data[at + 8 : at + 15])
            return Codes(primaries, transfer, matrix, full >= 128)
    return None


def profile_of(image: Image.Image, data: bytes) -> bytes | None:
    """The image's ICC profile; None for sRGB. `image`: loaded, in standard range."""
    if codes := codes_of(image, data):
        return _coded(codes.primaries, codes.transfer)
    profile: bytes | None = image.info.get("icc_profile") or None
    if image.format == "PNG":
        return profile or (None if "srgb" in image.info else _png(image))
    if image.format in ("JPEG", "MPO") and profile is None and _is_adobe_rgb(image):
        return _profile(ADOBE_RGB, lambda v: v ** (563 / 256))
    return profile


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Returns an RGB or RGBA image, and the reason if the profile was ignored. `image`: L, LA, RGB, RGBA, CMYK or LAB;
    may be changed in place."""
    if image.mode == "LA":
        grey, alpha = image.split()
        seen, why = to_srgb(grey, profile)
        seen.putalpha(alpha)
        return seen, why
    if image.mode == "LAB":
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "RGB"), None
    if profile is None:
        return _plain(image), None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if space == "RGB " and image.mode == "L":
            image = image.convert("RGB")
        if image.mode not in _SPACES.get(space, ()):
            return _plain(image), f"a colour profile for {space.strip()} does not fit an image in {image.mode}"
        return _converted(image, source, image.mode if space == "RGB " else "RGB"), None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _plain(image), "its colour profile is damaged"


def _plain(image: Image.Image) -> Image.Image:
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _converted(image: Image.Image, source: ImageCms.ImageCmsProfile, mode: str) -> Image.Image:
    change = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        image.mode,
        mode,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION | (_NO_TABLE if image.mode == "LAB" else 0),
    )
    if image.mode == mode:
        levels = Image.frombytes("RGB", (len(_LEVELS) // 3, 1), _LEVELS).convert(mode)
        moved = ImageChops.difference(levels, _applied(levels.copy(), change))
        if max(moved.convert("RGB").tobytes()) <= _SAME:
            return image
    return _applied(image, change)


def _applied(image: Image.Image, change: ImageCms.ImageCmsTransform) -> Image.Image:
    in_place = change.input_mode == change.output_mode
    return ImageCms.applyTransform(image, change, inPlace=in_place) or image


def _coded(primaries: int, transfer: int) -> bytes | None:
    """The ICC profile for primaries and transfer as numbers of H.273. Unknown numbers count as sRGB's."""
    corners, curve = PRIMARIES.get(primaries, SRGB), _CURVES.get(transfer)
    if curve is None and corners == SRGB:
        return None
    return _profile(corners, curve or _srgb)


def _png(image: Image.Image) -> bytes | None:
    """The ICC profile that corresponds to a PNG's gAMA and cHRM chunks."""
    corners: Primaries = image.info.get("chromaticity", SRGB)
    gamma: float | None = image.info.get("gamma")
    if gamma and not 0.1 <= gamma <= 4:  # not plausible
        gamma = None
    if all(abs(a - b) < 0.003 for a, b in zip(corners, SRGB, strict=True)):
        corners = SRGB
        if gamma and abs(gamma - 1 / 2.2) < 0.002:  # the standard's value for sRGB
            gamma = None
    if corners == SRGB and not gamma:
        return None
    try:
        return _profile(corners, _srgb if not gamma else lambda v: v ** (1 / gamma))
    except (ZeroDivisionError, OverflowError, struct.error):
        return None  # the three colours lie on one line or are missing


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether the image has the Exif tags with which cameras mark Adobe RGB instead of embedding a profile."""
    if "exif" not in image.info:
        return False
    tags = image.getexif()
    about = tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    return about == 2 or (about == 0xFFFF and str(tags.get_ifd(ExifTags.IFD.Interop).get(1))[:3] == "R03")


def _srgb(v: float) -> float:
    return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4


_CURVES: dict[int, Callable[[float], float]] = {
    4: lambda v: v**2.2,
    5: lambda v: v**2.8,
    8: lambda v: v,
}


def _profile(corners: Primaries, curve: Callable[[float], float]) -> bytes:
    """A display's ICC profile, version 2. Raises ZeroDivisionError, OverflowError or struct.error for impossible
    primaries."""
    levels = [round(65535 * min(1.0, max(0.0, curve(n / (_STEPS - 1))))) for n in range(_STEPS)]
    shape = b"curv\0\0\0\0" + struct.pack(f">I{_STEPS}H", _STEPS, *levels) + bytes(2 * (_STEPS % 2))
    text = b"text\0\0\0\0made of tags\0".ljust(24, b"\0")
    description = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"t\0" + bytes(78 + 4)
    tags = [(b"desc", description), (b"cprt", text), (b"wtpt", _xyz(_D50))]
    tags += [(name, _xyz(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _columns(corners), strict=True)]
    tags += [(name, shape) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags:
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(_D50)[8:] + bytes(48)
    return head + table + body


def _xyz(colour: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in colour))


def _columns(corners: Primaries) -> Matrix:
    """XYZ of red, green and blue at full level, adapted to the white of ICC profiles."""
    white, *colours = (_light(x, y) for x, y in zip(corners[::2], corners[1::2], strict=True))
    shares = _times(_inverse(_transposed(tuple(colours))), white)
    full = [tuple(share * v for v in colour) for share, colour in zip(shares, colours, strict=True)]
    before, after = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    adapted = []
    for colour in full:
        cones = _times(_BRADFORD, (colour[0], colour[1], colour[2]))
        moved = [cone * to / of for cone, to, of in zip(cones, after, before, strict=True)]
        adapted.append(_times(_inverse(_BRADFORD), (moved[0], moved[1], moved[2])))
    return tuple(adapted)


def _light(x: float, y: float) -> tuple[float, float, float]:
    return x / y, 1.0, (1 - x - y) / y


def _times(m: Matrix, v: tuple[float, float, float]) -> tuple[float, float, float]:
    a, b, c = (sum(x * y for x, y in zip(row, v, strict=True)) for row in m)
    return a, b, c


def _transposed(m: Matrix) -> Matrix:
    return tuple((a, b, c) for a, b, c in zip(*m, strict=True))


def _inverse(m: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = m
    whole = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return (
        ((e * i - f * h) / whole, (c * h - b * i) / whole, (b * f - c * e) / whole),
        ((f * g - d * i) / whole, (a * i - c * g) / whole, (c * d - a * f) / whole),
        ((d * h - e * g) / whole, (b * g - a * h) / whole, (a * e - b * d) / whole),
    )
