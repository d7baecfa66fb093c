"""Whether a file is a clip the worker will be able to read.

Knows: how to ask ffmpeg for the first frame and the length. Does not know: where the file came from.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pipelines import child
from pipelines.video.process import MediaUnreadable, ffmpeg, guarded_input

SECONDS = 30.0  # ffmpeg may take
LONGEST = 60.0  # seconds; the worker reads no longer ones
PIXELS = 1920 * 1088
THREADS = "2"  # each takes address space, which is limited
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)


def check_clip(path: Path, *, longest: float = LONGEST, pixels: int = PIXELS) -> None:
    """`longest` in seconds, `pixels` of one frame. Raises MediaUnreadable."""
    command = [ffmpeg(), "-hide_banner", "-nostats", "-nostdin", "-threads", THREADS, "-max_pixels", str(pixels)]
    command += [*guarded_input(path), "-map", "0:v:0", "-an", "-sn", "-dn", "-frames:v", "1", "-f", "null", "-"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            preexec_fn=child.die_with_parent,  # this process has one thread
        )
    except subprocess.TimeoutExpired:
        raise MediaUnreadable("unsupported_video_format", "the video takes too long to decode") from None
    words = done.stderr.decode("utf-8", "replace")
    if "max pixel count" in words:
        raise MediaUnreadable("file_too_large", f"the video has more than {pixels} pixels a frame")
    if done.returncode:
        raise MediaUnreadable(
            "unsupported_video_format", "the file is not a video that can be decoded, or it is damaged"
        )
    if found := _DURATION.search(words):
        hours, minutes, seconds = found.groups()
        if int(hours) * 3600 + int(minutes) * 60 + float(seconds) > longest:
            raise MediaUnreadable("video_duration_too_long", f"the video is longer than {longest:g} seconds")
