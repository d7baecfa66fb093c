"""Decode an input clip to uint8 frames at a constant rate, within limits; pick frames for another rate.

One ffmpeg process writes PPM images into a pipe, so that every size is checked before its pixels are read. Sound is
dropped.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
import threading
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.video import stream as streams
from pipelines.video.process import MediaUnreadable

_SHOW = "showinfo=checksum=0"
_TIME = re.compile(r"^\[Parsed_showinfo[^\]]*\] n: *\d+ .*?pts_time:(-?[\d.]+)", re.MULTILINE)
_RATE = re.compile(r"^  Stream #.*: Video: .*?([\d.]+) fps", re.MULTILINE)
# ffmpeg reads a file that ends too early as a shorter clip, with a warning. ffmpeg's own messages begin with `[`.
_CUT_OFF = re.compile(r"^\[.*(partial file|File ended prematurely|LZW decode failed)", re.MULTILINE)
_TICK = 0.001  # seconds; the coarsest clock of all formats is WebM's, so this is the largest error of a timestamp


@dataclass(frozen=True)
class Clip:
    """`frames`: uint8 sRGB [T, H, W, 3], evenly spaced at `fps` frames a second. `note` is about its colours: asked,
    used, reason."""

    frames: NDArray[np.uint8]
    fps: float
    note: tuple[str, str, str] | None = None

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])


def read_video(
    path: str | Path,
    *,
    max_frames: int,
    max_pixels: int,
    max_seconds: float,
    first_seconds: float | None = None,
    longest_side: int | None = None,
    source_pixels: int | None = None,
    timeout: float = 120.0,
) -> Clip:
    """Decode a clip of any of `kinds.CLIPS`: upright, square pixels, opaque, sRGB, at a constant rate.

    `first_seconds`: decode only that many seconds from the start. `longest_side`: frames with a longer side are scaled
    down until their longest side has this length. `max_pixels` is width x height of one frame. Frames of more pixels
    are scaled down to `max_pixels` if they have at most `source_pixels`, and are refused otherwise or without
    `source_pixels`. Memory stays below twice `max_frames` x `max_pixels` x 3 bytes. `timeout` is in seconds. Raises
    MediaUnreadable with code `unsupported_video_format` (not a video, torn, a playlist, too slow to decode),
    `file_too_large` (a frame above the limit), `video_duration_too_long` (above `max_seconds` or `max_frames`),
    `video_duration_too_short` (no frame). No other file is opened, even if the clip refers to another file.
    """
    path = Path(path)
    pixels = source_pixels or max_pixels
    stream = streams.describe(path, pixels=pixels, seconds=min(timeout, streams.SECONDS))
    streams.check_length(path, stream, max_seconds)
    command = streams.arguments(path, stream, pixels)
    command += [
        "-map",
        "0:V:0",
        "-an",
        "-sn",
        "-dn",
        "-t",
        str(first_seconds or max_seconds + 1),
        "-fps_mode",
        "passthrough",
    ]
    filters = stream.filters(max_pixels, longest_side)
    command += [
        "-sws_flags",
        streams.SWSCALE,
        "-vf",
        f"{filters},{_SHOW}",
        "-c:v",
        "ppm",
        "-pix_fmt",
        "rgb24",
        "-f",
        "image2pipe",
        "pipe:1",
    ]
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            frames = _frames(process, max_frames, max_pixels)
            code = process.wait()
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        # The log is opened by name, because seeking the handle that ffmpeg inherited would move ffmpeg's position too.
        words = Path(log.name).read_text("utf-8", "replace")
    if "max pixel count" in words and not frames:
        raise streams.too_large(pixels)
    if code or _CUT_OFF.search(words):
        raise MediaUnreadable(
            "unsupported_video_format", "the file is not a video that can be decoded, or it is damaged"
        )
    if not frames:
        raise MediaUnreadable("video_duration_too_short", "the video holds no frame")
    return replace(_even(frames, words, max_seconds), note=stream.note)


def _frames(process: subprocess.Popen[bytes], max_frames: int, max_pixels: int) -> list[NDArray[np.uint8]]:
    pipe = process.stdout
    frames: list[NDArray[np.uint8]] = []
    while pipe is not None and (magic := pipe.readline(16)):
        size = pipe.readline(32).split()
        depth = pipe.readline(16)
        if magic != b"P6\n" or len(size) != 2 or depth != b"255\n":
            break  # ffmpeg was killed within a header; its exit status shows this
        width, height = int(size[0]), int(size[1])
        if width * height > max_pixels:
            raise streams.too_large(max_pixels, f"{width}x{height}")
        if frames and frames[0].shape[:2] != (height, width):
            raise MediaUnreadable("unsupported_video_format", "the video changes its size on the way")
        if len(frames) == max_frames:
            raise MediaUnreadable("video_duration_too_long", f"the video has more than {max_frames} frames")
        data = pipe.read(width * height * 3)
        if len(data) < width * height * 3:
            break
        frames.append(np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3))
    return frames


def _even(frames: list[NDArray[np.uint8]], words: str, max_seconds: float) -> Clip:
    """Resample frames to a constant rate, which is their mean rate. Each new frame is the old frame that is nearest in
    time."""
    times = np.array([float(t) for t in _TIME.findall(words)])
    count = len(frames)
    stated = _RATE.search(words)
    if count == 1 or len(times) != count or times[-1] <= times[0]:
        return Clip(np.stack(frames), float(stated.group(1)) if stated else 1.0)
    span = float(times[-1] - times[0])
    fps = _usual_rate(count, span)
    streams.check_seconds(count / fps, max_seconds)
    wanted = times[0] + np.arange(count) / fps
    if np.abs(times - wanted).max() > 0.5 / fps:
        middles = (times[1:] + times[:-1]) / 2
        frames = [frames[i] for i in np.searchsorted(middles, wanted)]
    return Clip(np.stack(frames), fps)


def _usual_rate(count: int, span: float) -> float:
    """The rate (count - 1) / span. If the rounding of the clip's clock can explain the difference to a whole rate or to
    an NTSC rate (n x 1000/1001), that rate is returned."""
    rate = (count - 1) / span
    whole = max(1, round(rate))
    usual = min((whole, whole * 1000 / 1001), key=lambda r: abs((count - 1) / r - span))
    return float(usual) if abs((count - 1) / usual - span) <= _TICK else rate


def resample_indices(n_source: int, source_fps: float, target_fps: float, count: int) -> list[int]:
    """For each of `count` frames at `target_fps`, the index of the source frame that is nearest in time. If two source
    frames are equally near, the earlier frame is taken.

    The first source frame and the first target frame are both at time 0. After the end of the source, its last frame
    repeats. Raises ValueError without a source frame, for a rate <= 0 or for a negative count.
    """
    if n_source < 1 or count < 0 or not source_fps > 0 or not target_fps > 0:
        raise ValueError(f"cannot take {count} frames at {target_fps} fps from {n_source} at {source_fps} fps")
    step = Fraction(source_fps).limit_denominator(1001) / Fraction(target_fps).limit_denominator(1001)
    return [min(n_source - 1, math.ceil(k * step - Fraction(1, 2))) for k in range(count)]
