"""Check that a file is a clip which the worker can read: ffmpeg decodes the first frame and finds the length."""

from __future__ import annotations

from pathlib import Path

from pipelines.video import stream
from pipelines.video.process import MediaUnreadable

SECONDS = 30.0  # time limit for ffmpeg
LONGEST = 60.0  # seconds; the worker refuses longer clips
PIXELS = stream.SOURCE_PIXELS  # pixels of a frame in the file
KEPT_PIXELS = 1920 * 1088  # pixels of a frame in the worker; larger frames are scaled down as they are decoded
_THREADS = ("-threads", "2", "-filter_threads", "2")  # each thread takes address space, which is limited


def check_clip(path: Path, *, longest: float = LONGEST, pixels: int = PIXELS) -> None:
    """`longest`: the most seconds that the clip may last. `pixels`: the most pixels that a frame in the file may have.
    Raises MediaUnreadable."""
    found = stream.describe(path, pixels=pixels, seconds=SECONDS)
    stream.check_length(path, found, longest)
    command, *rest = stream.arguments(path, found, pixels)
    output = ["-map", "0:V:0", "-an", "-sn", "-dn", "-vf", found.filters(KEPT_PIXELS), "-pix_fmt", "rgb24"]
    done = stream.run([command, *_THREADS, *rest, *output, "-frames:v", "1", "-f", "null", "-"], SECONDS)
    if done.returncode:
        raise MediaUnreadable(
            "unsupported_video_format", "the file is not a video that can be decoded, or it is damaged"
        )
