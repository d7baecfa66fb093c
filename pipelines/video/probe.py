"""Whether a file is a clip the worker will be able to read.

Knows: how to ask ffmpeg for the first frame and the length. Does not know: where the file came from.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.video import stream
from pipelines.video.process import MediaUnreadable

SECONDS = 30.0  # ffmpeg may take
LONGEST = 60.0  # seconds; the worker reads no longer ones
PIXELS = stream.SOURCE_PIXELS  # of a frame in the file
KEPT_PIXELS = 1920 * 1088  # of a frame as the worker has it; larger ones are scaled down as they are decoded
_THREADS = ("-threads", "2", "-filter_threads", "2")  # each takes address space, which is limited


def check_clip(path: Path, *, longest: float = LONGEST, pixels: int = PIXELS) -> None:
    """`longest` in seconds, `pixels` of one frame in the file. Raises MediaUnreadable."""
    found = stream.describe(path, pixels=pixels, seconds=SECONDS)
    stream.check_length(path, found, longest)
    command, *rest = stream.arguments(path, found, pixels)
    output = ["-map", "0:V:0", "-an", "-sn", "-dn", "-vf", found.filters(KEPT_PIXELS), "-pix_fmt", "rgb24"]
    done = stream.run([command, *_THREADS, *rest, *output, "-frames:v", "1", "-f", "null", "-"], SECONDS)
    if done.returncode:
        raise MediaUnreadable(
            "unsupported_video_format", "the file is not a video that can be decoded, or it is damaged"
        )
