"""Look at a clip and say what it shows: colour, background, motion.

Knows: the palette and plain geometry. Does not know: models, or what was asked for. Exact on rendered clips; on
generated ones it takes the nearest colour of the palette, and the shape it does not judge.
"""

from dataclasses import dataclass

import numpy as np

from weights.training.shapes import COLORS, Field, Frames

NAMES = tuple(COLORS)
PALETTE = np.array([COLORS[name] for name in NAMES], np.float32)


@dataclass(frozen=True)
class Seen:
    """What one clip shows. `dx` and `dy` are the object's way from first to last frame, in fractions of the frame."""

    color: str
    background: str
    motion: str  # one of MOTIONS, or "none" where there is no object to follow
    dx: float
    dy: float
    growth: float  # last area / first area


def nearest(pixels: Field) -> str:
    """The palette's name for most of the pixels [N, 3]."""
    names = np.linalg.norm(pixels[:, None] - PALETTE, axis=-1).argmin(1)
    return NAMES[int(np.bincount(names, minlength=len(NAMES)).argmax())]


def look(clip: Frames) -> Seen:
    """Judge a clip of [T, H, W, 3]."""
    _, height, width, _ = clip.shape
    video = clip.astype(np.float32)
    # The background is what most of the rim of all frames is.
    rim = np.concatenate([video[:, :2].reshape(-1, 3), video[:, -2:].reshape(-1, 3), video[:, :, :2].reshape(-1, 3)])
    background = np.median(rim, axis=0)
    far = np.linalg.norm(video - background, axis=-1)
    peak = float(np.quantile(far, 0.995))
    if peak < 40:
        return Seen("none", nearest(background[None]), "none", 0, 0, 1)
    mask = far > 0.5 * peak
    color = nearest(video[far > 0.7 * peak])
    ys, xs = np.mgrid[0:height, 0:width]
    areas = mask.sum((1, 2))
    seen = np.flatnonzero(areas >= 4)
    if len(seen) < 2:
        return Seen(color, nearest(background[None]), "none", 0, 0, 1)
    # A line through all centres forgives a few odd frames.
    times = seen / max(len(clip) - 1, 1)
    cx = np.array([xs[mask[t]].mean() for t in seen]) / width
    cy = np.array([ys[mask[t]].mean() for t in seen]) / height
    dx, dy = float(np.polyfit(times, cx, 1)[0]), float(np.polyfit(times, cy, 1)[0])
    edge = max(1, len(seen) // 6)
    growth = float(areas[seen[-edge:]].mean() / areas[seen[:edge]].mean())
    if max(abs(dx), abs(dy)) < 0.06:
        motion = "growing" if growth > 1.35 else "still"
    elif abs(dx) > abs(dy):
        motion = "right" if dx > 0 else "left"
    else:
        motion = "down" if dy > 0 else "up"
    return Seen(color, nearest(background[None]), motion, dx, dy, growth)
