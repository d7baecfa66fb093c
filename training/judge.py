"""Judge what a clip shows: colour, background, shape, motion.

Knows: the palette, plain geometry, the motions of `shapes`. Does not know: models, or what was requested. It judges
only the object with the most contrast to the background.
"""

import cmath
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.shapes import COLORS, DIRECTIONS, FILM, GROWTH, SHAPES, TURN, Field, Frames, Scene, mask

NAMES = tuple(COLORS)
PALETTE = np.array([COLORS[name] for name in NAMES], np.float32)
Times = npt.NDArray[np.integer]  # [N] frame numbers
Masks = npt.NDArray[np.bool_]  # [T, H, W] or [H, W]
FOLDS = {
    "circle": 0,
    "square": 4,
    "triangle": 3,
    "star": 5,
}  # the shape looks the same after a full turn divided by this number
WAYS = (*DIRECTIONS, "bouncing", "circling", "still")
LEAST_CONTRAST = 40.0  # of at most 255 * sqrt(3); an object has at least this contrast
LEAST_OVERLAP = 0.6  # mean intersection over union with the ideal shape; below this value the shape is unknown
LEAST_SEEN = 0.8  # share of the frames that must show the object; otherwise the motion is unknown


@dataclass(frozen=True)
class Seen:
    """What one clip shows. A field is "none" if there is no object, or if its shape or motion is unknown. `dx`, `dy`:
    movement from the first to the last frame, in fractions of the frame; `growth`: last area / first area; `turn`:
    radians per frame; `overlap`: intersection over union of the object and an ideal shape at the object's place, 0..1.
    """

    color: str
    background: str
    shape: str = "none"
    motion: str = "none"
    dx: float = 0.0
    dy: float = 0.0
    growth: float = 1.0
    turn: float = 0.0
    overlap: float = 0.0


def nearest(pixels: Field) -> str:
    """The name of the palette's colour that is nearest to most of the pixels [N, 3]."""
    names = np.linalg.norm(pixels[:, None] - PALETTE, axis=-1).argmin(1)
    return NAMES[int(np.bincount(names, minlength=len(NAMES)).argmax())]


def look(clip: Frames) -> Seen:
    """Judge a clip of [T, H, W, 3]."""
    _, height, width, _ = clip.shape
    video = clip.astype(np.float32)
    edges = video[:, :2], video[:, -2:], video[:, :, :2], video[:, :, -2:]
    rim = np.concatenate([edge.reshape(-1, 3) for edge in edges])
    background = np.median(rim, axis=0)
    far = np.linalg.norm(video - background, axis=-1)
    peak = float(np.quantile(far, 0.99))
    if peak < LEAST_CONTRAST:
        return Seen("none", nearest(background[None]))
    masks = far > 0.5 * peak
    color = nearest(video[far > 0.7 * peak])
    areas = masks.sum((1, 2))
    times = np.flatnonzero(areas >= 12)
    if len(times) < 2:
        return Seen(color, nearest(background[None]))
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    track = np.array([(xs[masks[t]].mean(), ys[masks[t]].mean()) for t in times])
    shape, overlap = _shape(masks[times])
    slope = np.polyfit(times, track, 1)[0] * (len(clip) - 1)
    edge = max(1, len(times) // 6)
    growth = float(areas[times[-edge:]].mean() / areas[times[:edge]].mean())
    turn = _turn(masks[times], times, FOLDS[shape])
    motion = _way(track / min(height, width) * 64, times, len(clip)) if len(times) >= LEAST_SEEN * len(clip) else "none"
    if motion == "still":
        # `enough` is the factor by which the radius should grow. The area should grow by the square of this factor, so
        # an area that grows by `enough` has half of the expected growth on a logarithmic scale.
        enough = 1 + (GROWTH - 1) * (len(clip) - 1) / (FILM - 1)
        if growth > enough or growth < 1 / enough:
            motion = "growing" if growth > 1 else "shrinking"
        elif turn > TURN / 2:
            motion = "turning"
    dx, dy = slope / (width, height)
    shape = shape if overlap >= LEAST_OVERLAP else "none"
    return Seen(color, nearest(background[None]), shape, motion, float(dx), float(dy), growth, turn, overlap)


def _way(track: Field, times: Times, frames: int) -> str:
    """The motion in WAYS nearest to the object's positions at `times`, [N, 2] in units; "none" if the object moved less
    than half as far, or more than one and a half times as far, as that motion.
    """
    best, found = math.inf, ""
    for way in WAYS:
        scene = Scene("circle", "red", "blue", way, "medium", frames, 0, 0)
        ideal = np.array([scene.centre(t) for t in times])
        ideal, real = ideal - ideal.mean(0), track - track.mean(0)
        size = float((ideal * ideal).sum())
        far = float((ideal * real).sum()) / size if size else 1.0
        error = float(np.square(real - min(1.5, max(0.5, far)) * ideal).sum())
        if error < best:
            best, found = error, way if 0.5 <= far <= 1.5 else "none"
    return found


def _moment(seen: Masks, fold: int) -> complex:
    """A complex number that gives the orientation of a mask about its centre. Its phase is `fold` times the angle of
    the shape."""
    ys, xs = np.nonzero(seen)
    z = xs - xs.mean() + 1j * (ys - ys.mean())
    return complex((z**fold).mean())


def _turn(masks: Masks, times: Times, fold: int) -> float:
    """Rotation in radians per frame."""
    if not fold or len(times) < 4:
        return 0.0
    angles = np.unwrap([cmath.phase(_moment(seen, fold)) for seen in masks]) / fold
    return float(np.polyfit(times, angles, 1)[0])


def _shape(masks: Masks) -> tuple[str, float]:
    """The shape whose drawing, at the same size and angle, matches the masks best, and its mean intersection over
    union.
    """
    scores = dict.fromkeys(SHAPES, 0.0)
    whole = [m for m in masks if not (m[0].any() or m[-1].any() or m[:, 0].any() or m[:, -1].any())]
    looked_at = (whole or list(masks))[:: max(1, len(whole) // 8)]
    for seen in looked_at:
        ys, xs = np.nonzero(seen)
        x, y = xs.mean() + 0.5, ys.mean() + 0.5
        for shape in SHAPES:
            scores[shape] += max(_overlap(seen, shape, x, y, angle) for angle in _angles(seen, shape))
    best = max(scores, key=lambda shape: scores[shape])
    return best, scores[best] / len(looked_at)


def _angles(seen: Masks, shape: str) -> tuple[float, ...]:
    fold = FOLDS[shape]
    if not fold:
        return (0.0,)
    drawn = mask(shape, 32, 32, 20, 0.0, 64, 64) > 0.5
    return (0.0, (cmath.phase(_moment(seen, fold)) - cmath.phase(_moment(drawn, fold))) / fold)


def _overlap(seen: Masks, shape: str, x: float, y: float, angle: float) -> float:
    """Intersection over union with the ideal shape of the same area and centre."""
    height, width = seen.shape
    drawn = mask(shape, 64, 64, 20, angle, 128, 128)
    radius = 20 * math.sqrt(seen.sum() / drawn.sum())
    ys, xs = np.mgrid[0:128, 0:128] + 0.5
    off = (float((drawn * xs).sum() / drawn.sum()) - 64, float((drawn * ys).sum() / drawn.sum()) - 64)
    there = mask(shape, x - off[0] * radius / 20, y - off[1] * radius / 20, radius, angle, height, width) > 0.5
    return float((seen & there).sum() / (seen | there).sum())
