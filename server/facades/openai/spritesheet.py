"""Frames of a video side by side in one image."""

from __future__ import annotations

from pathlib import Path

from pipelines.video.process import ffmpeg, guarded_input
from server.media.inspectors import Inspectors, TooSlow

COLUMNS, TILES = 4, 16
TILE_WIDTH = 320  # pixels at most
# the colors of a video are BT.709 in limited range; the colors of a JPEG are BT.601 in full range
JPEG = "out_color_matrix=bt601:out_range=pc,format=yuvj420p"
SECONDS = 60.0  # the time limit for ffmpeg


class NoSpritesheet(Exception):
    pass


async def spritesheet(video: Path, frames: int, inspectors: Inspectors) -> bytes:
    """Returns a JPEG of up to 16 evenly spaced frames, from the first to the last frame, in rows of four. Raises
    NoSpritesheet."""
    count = max(1, min(TILES, frames))
    picked = sorted({round(n * (frames - 1) / max(1, count - 1)) for n in range(count)})
    choice = "+".join(f"eq(n\\,{n})" for n in picked)
    rows = -(-len(picked) // COLUMNS)
    filters = f"select='{choice}',scale=w='min(iw,{TILE_WIDTH})':h=-2:{JPEG},tile={min(COLUMNS, len(picked))}x{rows}"
    command = [ffmpeg(), "-hide_banner", "-nostats", "-nostdin", *guarded_input(video), "-map", "0:v:0"]
    command += ["-vf", filters, "-frames:v", "1", "-c:v", "mjpeg", "-q:v", "3", "-f", "image2pipe", "pipe:1"]
    try:
        status, sheet, _ = await inspectors.program(command, SECONDS)
    except TooSlow:
        raise NoSpritesheet("the video takes too long to decode") from None
    if status or not sheet:
        raise NoSpritesheet("the video cannot be decoded")
    return sheet
