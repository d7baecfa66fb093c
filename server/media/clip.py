"""Whether a file is a clip the worker will be able to read.

Knows: how to ask ffmpeg for the first frame and the length, without decoding the rest in this process.
Does not know: where the file came from, what is done with it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pipelines.video import MediaUnreadable
from pipelines.video.process import ffmpeg, guarded_input

SECONDS = 30.0  # ffmpeg may take
LONGEST = 60.0  # seconds; the worker reads no longer ones
PIXELS = 1920 * 1088
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)


def check_clip(path: Path) -> None:
    """Raises MediaUnreadable."""
    command = [ffmpeg(), "-hide_banner", "-nostats", "-nostdin", "-max_pixels", str(PIXELS), *guarded_input(path)]
    command += ["-map", "0:v:0", "-an", "-sn", "-dn", "-frames:v", "1", "-f", "null", "-"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise MediaUnreadable("unsupported_video_format", "the video takes too long to decode") from None
    words = done.stderr.decode("utf-8", "replace")
    if "max pixel count" in words:
        raise MediaUnreadable("file_too_large", f"the video has more than {PIXELS} pixels a frame")
    if done.returncode:
        raise MediaUnreadable("unsupported_video_format", "the file is not a video that can be decoded, or it is torn")
    if found := _DURATION.search(words):
        hours, minutes, seconds = found.groups()
        if int(hours) * 3600 + int(minutes) * 60 + float(seconds) > LONGEST:
            raise MediaUnreadable("video_duration_too_long", f"the video is longer than {LONGEST:g} seconds")
