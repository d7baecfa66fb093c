"""One scene in many formats and colour spaces, computed independently of our own code."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipelines.video.process import ffmpeg
from tests.rigs import pace

SIDE = 32  # pixels of a patch
# colours from a colour chart: all are inside sRGB, and so dark that HDR conversion does not compress them
PATCHES = np.array(
    [
        [(115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (120, 180, 165)],
        [(214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46)],
        [(56, 61, 150), (70, 148, 73), (175, 54, 60), (224, 199, 80), (187, 86, 149), (64, 133, 161)],
        [(226, 226, 226), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (20, 20, 20)],
    ],
    np.uint8,
)
SCENE = PATCHES.repeat(SIDE, 0).repeat(SIDE, 1)  # uint8 [128, 192, 3]
CLOSE = 3  # levels of 255

XY = dict[str, tuple[float, float]]
WHITE = (0.3127, 0.3290)
SRGB: XY = {"r": (0.64, 0.33), "g": (0.30, 0.60), "b": (0.15, 0.06)}
P3: XY = {"r": (0.680, 0.320), "g": (0.265, 0.690), "b": (0.150, 0.060)}
ADOBE: XY = {"r": (0.64, 0.33), "g": (0.21, 0.71), "b": (0.15, 0.06)}
BT2020: XY = {"r": (0.708, 0.292), "g": (0.170, 0.797), "b": (0.131, 0.046)}


def distance(frame: NDArray[np.uint8], scene: NDArray[np.uint8] = SCENE) -> int:
    """The largest difference from the scene in the middle of any patch, in levels of 255."""
    assert frame.shape == scene.shape
    middles = [slice(n * SIDE + SIDE // 4, (n + 1) * SIDE - SIDE // 4) for n in range(6)]
    return max(
        int(np.abs(frame[rows, columns].astype(int) - scene[rows, columns]).max())
        for rows in middles[: frame.shape[0] // SIDE]
        for columns in middles[: frame.shape[1] // SIDE]
    )


def linear(scene: NDArray[np.uint8] = SCENE) -> NDArray[np.float64]:
    v = scene / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def to_xyz(colours: XY) -> NDArray[np.float64]:
    """The matrix from linear light in these primaries, with D65 as white, to XYZ."""
    corners = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (colours["r"], colours["g"], colours["b"])]).T
    x, y = WHITE
    return np.asarray(corners * np.linalg.solve(corners, (x / y, 1, (1 - x - y) / y)))


def light_in(colours: XY, scene: NDArray[np.uint8] = SCENE) -> NDArray[np.float64]:
    """The scene's linear light in other primaries."""
    return np.asarray(linear(scene) @ (np.linalg.inv(to_xyz(colours)) @ to_xyz(SRGB)).T)


def srgb_curve(light: NDArray[np.float64]) -> NDArray[np.float64]:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq_curve(light: NDArray[np.float64], white: float = 203) -> NDArray[np.float64]:
    p = (light.clip(0) * white / 10_000) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * p) / (1 + 18.6875 * p)) ** 78.84375)


def levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def icc(colours: XY, gamma: float | None, extra: int = 0) -> bytes:
    """A display's ICC profile, version 4. If `gamma` is None, the profile has sRGB's curve. `extra` is a number of
    meaningless bytes to add."""
    bradford = np.array([(0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)])
    x, y = WHITE
    d50 = np.array([0.9642, 1, 0.8249])
    gain = (bradford @ d50) / (bradford @ np.array([x / y, 1, (1 - x - y) / y]))
    columns = (np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ to_xyz(colours)).T
    parameters = (gamma,) if gamma else (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve = b"para\0\0\0\0" + struct.pack(">HH", 0 if gamma else 3, 0) + b"".join(map(_fixed, parameters))
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 4, 28) + "me".encode("utf-16-be")
    xyz = [b"XYZ \0\0\0\0" + b"".join(map(_fixed, colour)) for colour in (d50, *columns)]
    junk = {b"junk": b"data" + bytes(8) + np.random.default_rng(0).bytes(extra)} if extra else {}
    tags = dict(zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), xyz, strict=True))
    return profile(
        b"RGB ", {b"desc": text, b"cprt": text, **tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, **junk}
    )


def press() -> bytes:
    """The ICC profile of a press whose cyan is (0, 138, 200) in sRGB."""
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    cyan = ImageCms.applyTransform(Image.new("RGB", (1, 1), (0, 138, 200)), to_lab).tobytes()
    cyan = bytes([cyan[0], (cyan[1] + 128) % 256, (cyan[2] + 128) % 256])
    corners = b"".join(
        cyan if inks == 8 else bytes([255 - 50 * inks.bit_count() if inks else 255, 128, 128]) for inks in range(16)
    )
    unit = b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1\0\0\0\0\4\3\2\0" + unit + bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    white = b"XYZ \0\0\0\0" + b"".join(map(_fixed, (0.9642, 1, 0.8249)))
    return profile(b"CMYK", {b"wtpt": white, b"A2B0": table}, b"prtr", b"Lab ")


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", to: bytes = b"XYZ ") -> bytes:
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"", 0x04000000, kind, space, to) + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + b"".join(map(_fixed, (0.9642, 1, 0.8249))) + bytes(48) + table + body


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def saved(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """The PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


def encode(path: Path, frame: NDArray[Any], *arguments: str, frames: int = 5, pixels: str = "rgb24") -> Path:
    """Encodes a clip of one image with a moving speck. `arguments` are ffmpeg's filters and codec, `pixels` is the
    pixel format of `frame`."""
    height, width = frame.shape[:2]
    size = ("-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-framerate", "8", "-i", "pipe:0")
    command = [ffmpeg(), "-v", "error", "-y", *size, *arguments, str(path)]
    clip = np.repeat(frame[None], frames, 0)
    clip[range(frames), 0, range(frames)] //= 2
    done = subprocess.run(command, input=clip.tobytes(), capture_output=True, timeout=pace.seconds(60))
    assert done.returncode == 0, done.stderr.decode()
    return path
