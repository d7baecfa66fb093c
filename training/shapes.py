"""The world of the demo model: one or two plain shapes that move on a plain background.

Knows: the scenes and how to draw them exactly. Does not know: words, models, torch, files. It is the ground truth for
training and for judging the demo model's videos.

Lengths are in units of 1/64 of the frame's shorter side, which are pixels at the native 96 x 64. Positions and speeds
lie on a grid of the autoencoder's cells (8 pixels), so that motion looks the same to the transformer each time; scenes
drawn with `anywhere` do not use the grid. Properties that a caption does not mention are always the same: a scene is in
the middle unless its caption gives a position, and a second object stands in the middle of a straight path or to the
right of an object that stays in its place.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]  # [T, H, W, 3]
Field = npt.NDArray[np.floating[Any]]  # [T, H, W] or [H, W]

FPS = 8
CELL = 8  # pixels

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
MOTIONS = ("left", "right", "up", "down", "still", "growing", "shrinking", "turning", "bouncing", "circling")
SIZES: dict[str, float] = {"small": 13.0, "medium": 17.0, "big": 21.0}  # radius
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
GROWTH = 1.8  # last radius / first radius of a video
TURN = math.pi / 32  # radians per frame: a square looks the same again after two seconds
BOUNCE_FRAMES, BOUNCE_HEIGHT = 16, 20.0
CIRCLE = 12.0  # radius
OFF_CENTRE = 0.5  # share of the scenes that are off the centre; the captions of these scenes give the position
FILM = 49  # frames; every shorter clip is the beginning of such a video


@dataclass(frozen=True)
class Thing:
    """A second object, which does not move. (x, y) is its centre, (0, 0) the top left corner of the frame."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    in_front: bool


@dataclass(frozen=True)
class Scene:
    """`frames` frames of a video of FILM frames, starting at frame `begin`. Motion continues beyond the last frame. (x,
    y) is the middle of the path, relative to the middle of the frame.
    """

    shape: str
    color: str
    background: str
    motion: str
    size: str
    frames: int
    x: float
    y: float
    scale: float = 1.0  # times the radius
    other: Thing | None = None
    begin: int = 0

    def centre(self, t: float) -> tuple[float, float]:
        """The centre in frame `t` of the video, relative to (x, y)."""
        if self.motion in DIRECTIONS:
            way = t - (FILM - 1) / 2
            return DIRECTIONS[self.motion][0] * way, DIRECTIONS[self.motion][1] * way
        if self.motion == "circling":
            return CIRCLE * math.sin(math.pi / 16 * t), -CIRCLE * math.cos(math.pi / 16 * t)
        if self.motion == "bouncing":
            part = t % BOUNCE_FRAMES / BOUNCE_FRAMES
            return 0.0, BOUNCE_HEIGHT * (0.5 - 4 * part * (1 - part))
        return 0.0, 0.0

    def radius(self, t: float) -> float:
        progress = t / (FILM - 1)
        if self.motion == "growing":
            part = 1 + (GROWTH - 1) * progress
        elif self.motion == "shrinking":
            part = max(0.1, GROWTH - (GROWTH - 1) * progress)
        else:
            return self.scale * SIZES[self.size]
        return self.scale * SIZES[self.size] * part * 0.75

    def angle(self, t: float) -> float:
        return TURN * t if self.motion == "turning" else 0.0


def sample_scene(rng: np.random.Generator, frames: int, *, anywhere: bool = False, two: float = 0.0) -> Scene:
    """A random scene; with probability `two` it has a second object, behind or in front of the first."""
    color, background, third = (str(name) for name in rng.choice(list(COLORS), size=3, replace=False))
    motion, shape = str(rng.choice(MOTIONS)), str(rng.choice(SHAPES))
    while shape == "circle" and motion == "turning":
        motion, shape = str(rng.choice(MOTIONS)), str(rng.choice(SHAPES))
    size = str(rng.choice(list(SIZES), p=[0.25, 0.5, 0.25]))
    if motion in ("growing", "shrinking") and size == "big":
        size = "medium"
    if anywhere:
        x, y, scale = float(rng.uniform(-20, 20)), float(rng.uniform(-14, 14)), float(rng.uniform(0.8, 1.25))
    else:
        x, y, scale = 0.0, 0.0, 1.0
        if rng.random() < OFF_CENTRE:
            x, y = CELL * float(rng.integers(-1, 2)), CELL * float(rng.integers(-1, 2))
        if motion in ("up", "down"):
            y = 0.0
    other = None
    if rng.random() < two:
        other_x = 0.0 if motion in DIRECTIONS else 2.0 * CELL
        small_or_big = str(rng.choice(list(SIZES), p=[0.2, 0.6, 0.2]))
        other = Thing(str(rng.choice(SHAPES)), third, small_or_big, other_x, 0.0, bool(rng.random() < 0.5))
    return Scene(shape, color, background, motion, size, frames, x, y, scale, other)


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
        # Fold the plane into one tenth of the star, where the outline is a single straight line.
        angle = np.abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
        length = np.hypot(x, y)
        px, py = length * np.cos(angle), length * np.sin(angle)
        tip, notch = 1.3 * radius, 0.55 * radius
        nx, ny = notch * math.cos(math.pi / 5), notch * math.sin(math.pi / 5)
        ex, ey = nx - tip, ny
        return np.asarray(((px - tip) * ey - py * ex) / math.hypot(ex, ey))
    raise ValueError(f"unknown shape {shape!r}")


def mask(
    shape: str, x: float, y: float, radius: float, angle: float, height: int, width: int, outline: float = 0.0
) -> Field:
    """[H, W] the share of each pixel that a shape covers, 0..1. If `outline` is not 0, the share that the shape's
    outline of this width covers. Lengths are in pixels, angles in radians (clockwise).
    """
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    dx, dy = xs - x, ys - y
    if angle:
        dx, dy = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    far = distance(shape, dx, dy, radius)
    if outline:
        far = np.abs(far) - outline / 2
    return np.asarray(np.clip(0.5 - far, 0, 1), np.float32)


def coverage(scene: Scene, height: int, width: int, outline: float = 0.0) -> Field:
    """[T, H, W] the share of each pixel that the object covers, 0..1. If `outline` is not 0, the share that the
    object's outline of this width in units covers."""
    unit = min(height, width) / 64
    out = np.empty((scene.frames, height, width), np.float32)
    for number in range(scene.frames):
        t = scene.begin + number
        dx, dy = scene.centre(t)
        x, y = width / 2 + (scene.x + dx) * unit, height / 2 + (scene.y + dy) * unit
        out[number] = mask(scene.shape, x, y, scene.radius(t) * unit, scene.angle(t), height, width, outline * unit)
    return out


def render(scene: Scene, height: int, width: int, outline: float = 0.0) -> Frames:
    """[T, H, W, 3] the clip; `outline` is the width in units of a white line around the moving object."""
    video = np.broadcast_to(np.array(COLORS[scene.background], np.float32), (scene.frames, height, width, 3))
    layers = [(scene.color, coverage(scene, height, width))]
    if scene.other is not None:
        thing, unit = scene.other, min(height, width) / 64
        x, y = width / 2 + thing.x * unit, height / 2 + thing.y * unit
        layer = thing.color, mask(thing.shape, x, y, SIZES[thing.size] * unit, 0.0, height, width)[None]
        layers.insert(1 if thing.in_front else 0, layer)
    if outline:
        layers.append(("white", coverage(scene, height, width, outline)))
    for color, alpha in layers:
        video = alpha[..., None] * np.array(COLORS[color], np.float32) + (1 - alpha[..., None]) * video
    return np.asarray(np.round(video), np.uint8)
