"""Images outside the demo's world: gradients, bars and several shapes at once, still or slowly drifting.

The autoencoder and the image-to-video model are also trained on these, so that these two models reproduce a user's own
image recognisably instead of turning it into one shape on one colour.
"""

import numpy as np

from training.shapes import SHAPES, Frames, distance


def picture(rng: np.random.Generator, height: int, width: int) -> Frames:
    """A random image [1, H, W, 3]."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
    if rng.random() < 0.3:
        corners[:] = corners[0, 0]
    u, v = (xs / width)[..., None], (ys / height)[..., None]
    image = (1 - v) * ((1 - u) * corners[0, 0] + u * corners[0, 1]) + v * ((1 - u) * corners[1, 0] + u * corners[1, 1])
    if rng.random() < 0.5:  # soft waves
        fx, fy, phase = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(0, 6.28)
        image = image + rng.uniform(10, 60) * np.sin(fx * xs + fy * ys + phase)[..., None] * rng.uniform(-1, 1, 3)
    for _ in range(int(rng.integers(0, 6))):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        shape = str(rng.choice(SHAPES))
        stretch = rng.uniform(0.5, 2.0)
        radius = float(rng.uniform(0.05, 0.35)) * min(height, width)
        field = distance(shape, ((xs - cx) * stretch).astype(np.float32), ys - np.float32(cy), radius)
        alpha = np.clip(0.5 - field, 0, 1)[..., None]
        image = alpha * rng.uniform(0, 255, 3) + (1 - alpha) * image
    return np.asarray(np.clip(np.round(image), 0, 255), np.uint8)[None]


def drift(rng: np.random.Generator, frames: int, height: int, width: int, *, still: bool = False) -> Frames:
    """A clip [T, H, W, 3]: a window that slides over a larger image, by up to one and a half pixels per frame."""
    steps = np.arange(frames)
    vx, vy = (0.0, 0.0) if still else rng.uniform(-1.5, 1.5, 2)
    left, top = np.round(vx * steps).astype(int), np.round(vy * steps).astype(int)
    left, top = left - left.min(), top - top.min()
    big = picture(rng, height + int(top.max()), width + int(left.max()))[0]
    return np.stack([big[t : t + height, x : x + width] for t, x in zip(top, left, strict=True)])
