"""The world the demo model lives in: one plain shape that moves on a plain background, and words for it.

Knows: the scenes, how to draw one exactly, how to say one in English. Does not know: models, torch, files. It is the
ground truth, both for training and for whoever judges what the demo model answers.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]  # [T, H, W, 3]
Field = npt.NDArray[np.floating[Any]]  # [T, H, W] or [H, W]

FPS = 8

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (40, 165, 70),
    "blue": (40, 85, 215),
    "yellow": (245, 215, 55),
    "orange": (240, 130, 35),
    "purple": (135, 55, 175),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = ("left", "right", "up", "down", "still", "growing")
SIZES: dict[str, float] = {"small": 0.17, "medium": 0.22, "big": 0.28}  # radius / shorter side of the frame
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0), "growing": (0, 0)
}  # fmt: skip
GROWTH = 1.8  # final radius / first radius


@dataclass(frozen=True)
class Scene:
    """One clip. Positions are fractions of the frame, (0, 0) is the top left corner."""

    shape: str
    color: str
    background: str
    motion: str
    size: str
    x: float  # centre in the first frame
    y: float
    travel: float  # length of the path as a fraction of the side it runs along

    def centre(self, progress: float) -> tuple[float, float]:
        """Where the centre is; progress runs from 0 (first frame) to 1 (last frame)."""
        dx, dy = DIRECTIONS[self.motion]
        return self.x + dx * self.travel * progress, self.y + dy * self.travel * progress


def sample_scene(rng: np.random.Generator, frames: int, *, anywhere: bool = False) -> Scene:
    """A random scene. A short clip goes a shorter way, so that the speed stays below three pixels a frame or so.

    The path lies around the middle of the frame, unless it may lie `anywhere`.
    """
    color, background = rng.choice(list(COLORS), size=2, replace=False)
    motion = str(rng.choice(MOTIONS))
    size = str(rng.choice(list(SIZES), p=[0.2, 0.6, 0.2]))
    travel = min(0.58, 0.032 * (frames - 1)) * float(rng.uniform(0.9, 1.05))
    dx, dy = DIRECTIONS[motion]
    if dx == dy == 0:
        travel = 0.0
    if motion == "growing":
        size = "medium" if size == "big" else size
    spread = 0.22 if anywhere else 0.08
    x = 0.5 - dx * travel / 2 + float(rng.uniform(-spread, spread))
    y = 0.5 - dy * travel / 2 + float(rng.uniform(-spread, spread))
    return Scene(str(rng.choice(SHAPES)), str(color), str(background), motion, size, x, y, travel)


def distance(shape: str, x: Field, y: Field, radius: float) -> Field:
    """Signed distance in pixels to the outline of a shape at the origin, negative inside; y points down."""
    if shape == "circle":
        return np.asarray(np.hypot(x, y) - radius)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.86 * radius)
    if shape == "triangle":
        low = y - 0.65 * radius
        return np.asarray(np.maximum(low, (np.abs(x) * 2 - (y + radius)) / math.sqrt(5)))
    if shape == "star":
        # Fold the plane into one tenth of the star; there the outline is a single straight line.
        angle = np.abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
        length = np.hypot(x, y)
        px, py = length * np.cos(angle), length * np.sin(angle)
        tip, notch = 1.2 * radius, 0.54 * radius
        nx, ny = notch * math.cos(math.pi / 5), notch * math.sin(math.pi / 5)
        ex, ey = nx - tip, ny
        return np.asarray(((px - tip) * ey - py * ex) / math.hypot(ex, ey))
    raise ValueError(f"unknown shape {shape!r}")


def coverage(scene: Scene, frames: int, height: int, width: int) -> Field:
    """[T, H, W] how much of each pixel the object covers, 0..1."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    out = np.empty((frames, height, width), np.float32)
    for t in range(frames):
        progress = t / max(frames - 1, 1)
        cx, cy = scene.centre(progress)
        radius = SIZES[scene.size] * min(height, width)
        if scene.motion == "growing":
            radius *= 0.8 + (0.8 * GROWTH - 0.8) * progress
        out[t] = np.clip(0.5 - distance(scene.shape, xs - cx * width, ys - cy * height, radius), 0, 1)
    return out


def render(scene: Scene, frames: int, height: int, width: int) -> Frames:
    """[T, H, W, 3] the clip."""
    alpha = coverage(scene, frames, height, width)[..., None]
    fore = np.array(COLORS[scene.color], np.float32)
    back = np.array(COLORS[scene.background], np.float32)
    return np.asarray(np.round(alpha * fore + (1 - alpha) * back), np.uint8)
