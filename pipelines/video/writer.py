"""Write frames to MP4, GIF or WebM, streamed into one ffmpeg process; and a JPEG of one frame.

On one machine, equal frames and an equal manifest give equal bytes: bit-exact muxing, no dates, fixed thread counts.

    MP4   H.264 High 4:2:0 crf 18, BT.709, moov first. Sizes are even, because H.264 4:2:0 works in pairs of pixels and
          is the only format that every browser plays. If a frame's width or height is odd, its last column or row is
          repeated; `coded_width` and `coded_height` are the sizes with this extra line. MP4's `clap` box could hide the
          extra line, but browsers ignore `clap`, and ffmpeg rounds the box down and cuts off a line too many.
    WebM  VP9 4:2:0 crf 24, BT.709. Odd sizes are exact.
    GIF   One palette for the whole video. The video loops for ever. ffmpeg keeps the video in memory until the palette
          is known: 4 bytes per pixel, 68 MB for 49 frames of 720x480.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.request import OutputFormat
from pipelines.video import manifest as manifests
from pipelines.video.process import ffmpeg, file_url

GIF_MAX_FPS = 50  # GIF delays are multiples of 1/100 s, and browsers play a delay of 1/100 s as 1/10 s
JPEG_QUALITY = 90
POLL = 0.25  # seconds between two reads of ffmpeg's progress while the file is closed

_BIT_EXACT = ("-fflags", "+bitexact", "-flags:v", "+bitexact")
# The number of x264 threads changes the bytes, so the number is the same on every machine. Four are enough for one
# pipe.
_THREADS = ("-threads", "4")
# By default, swscale converts with BT.601 and writes no tags. Players assume BT.709 from 720p on, and would shift the
# colours.
_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,format=yuv420p,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
# Bayer dithering is stable, while error diffusion flickers between frames.
_PALETTE = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=bayer:bayer_scale=3"

_ENCODERS: dict[str, tuple[str, ...]] = {
    "mp4": (
        *("-vf", _BT709, "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", *_THREADS),
        *("-movflags", "+faststart", "-f", "mp4"),
    ),
    # row-mt is off, because with it VP9's output depends on the timing of threads.
    "webm": (
        *("-vf", _BT709, "-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "5"),
        *("-row-mt", "0", "-tile-columns", "2", *_THREADS, "-f", "webm"),
    ),
    "gif": ("-filter_complex", _PALETTE, "-loop", "0", "-f", "gif"),
}


class EncodeError(RuntimeError):
    """ffmpeg could not write the file; the message ends with ffmpeg's message."""


class VideoWriter:
    """Writes one file; a context manager. The file appears under its name only when it is complete.

    `width`, `height` in pixels, `fps` in frames a second (29.97 may be a Fraction). Raises ValueError for sizes below
    2, `fps` <= 0, a GIF faster than `GIF_MAX_FPS`, an unknown format, or a manifest that JSON cannot hold. Raises
    EncodeError if ffmpeg fails or no frame was written. Leaving the block by an exception kills ffmpeg and removes the
    file.

    While the file is being closed, `closing` is called repeatedly with the number of frames that ffmpeg has yet to
    encode. For a GIF, closing the file takes most of the time. If `closing` raises an exception, writing ends.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: float | Fraction,
        output_format: OutputFormat,
        manifest: dict[str, Any],
        closing: Callable[[int], None] = lambda left: None,
    ) -> None:
        if output_format not in _ENCODERS:
            raise ValueError(f"output format {output_format!r} is none of {', '.join(_ENCODERS)}")
        if width < 2 or height < 2:
            raise ValueError(f"a video of {width}x{height} pixels cannot be written; 2x2 is the least")
        if not fps > 0:
            raise ValueError(f"fps must be above 0, not {fps}")
        if output_format == "gif" and fps > GIF_MAX_FPS:
            raise ValueError(f"a GIF plays at most {GIF_MAX_FPS} frames a second, not {fps}")
        self.path = Path(path).absolute()
        self.width, self.height, self.frames = width, height, 0
        self._format = output_format
        self._comment = manifests.encode(manifest)
        self._pad = (height % 2, width % 2) if output_format == "mp4" else (0, 0)
        self._scratch = tempfile.TemporaryDirectory(dir=self.path.parent, prefix=f".{self.path.name}.")
        self._closed = False
        self._closing = closing
        try:
            self._errors: IO[bytes] = (Path(self._scratch.name) / "errors").open("w+b")
            self._process = self._start(Fraction(fps).limit_denominator(1001))
        except BaseException:
            self._scratch.cleanup()
            raise

    def _start(self, rate: Fraction) -> subprocess.Popen[bytes]:
        scratch = Path(self._scratch.name)
        self._part, self._progress = scratch / "video", scratch / "progress"
        tags = scratch / "tags"
        tags.write_text(manifests.to_ffmetadata(self._comment), encoding="ascii", newline="\n")
        size = f"{self.coded_width}x{self.coded_height}"
        command = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        command += ["-progress", file_url(self._progress), "-stats_period", str(POLL)]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", str(rate), "-i", "pipe:0"]
        if self._format != "gif":
            command += ["-f", "ffmetadata", "-i", file_url(tags), "-map", "0:v", "-map_metadata", "1"]
        command += [*_ENCODERS[self._format], *_BIT_EXACT, file_url(self._part)]
        # ffmpeg gets its own session, so that Ctrl-C in a terminal reaches only our process.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )

    @property
    def coded_width(self) -> int:
        """Width in the file, in pixels: `width`, or `width` + 1 for an odd width in an MP4."""
        return self.width + self._pad[1]

    @property
    def coded_height(self) -> int:
        return self.height + self._pad[0]

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append uint8 RGB [T, H, W, 3] or [H, W, 3]. Raises ValueError for another shape or dtype, or after
        `close`."""
        if self._closed:
            raise ValueError("the video is closed")
        if frames.ndim == 3:
            frames = frames[None]
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self.height, self.width, 3):
            raise ValueError(
                f"frames must be uint8 [T, {self.height}, {self.width}, 3], not {frames.dtype} {list(frames.shape)}"
            )
        if any(self._pad):
            frames = np.pad(frames, ((0, 0), (0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        stdin = self._process.stdin
        try:
            for frame in frames:
                if stdin is not None:
                    stdin.write(np.ascontiguousarray(frame).data)
        except OSError as e:
            self._process.wait()
            raise EncodeError(f"ffmpeg stopped early: {self._words()}") from e
        self.frames += len(frames)

    def close(self) -> None:
        """Finish the file and move it into place. Raises EncodeError if that fails; a second call does nothing."""
        if self._closed:
            return
        try:
            if not self.frames:
                raise EncodeError("no frame was written")
            self._encode_the_rest()
            if self._process.returncode:
                raise EncodeError(f"ffmpeg failed ({self._process.returncode}): {self._words()}")
            self._finish()
        finally:
            self.abort()

    def _encode_the_rest(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        while True:
            self._closing(max(0, self.frames - self._encoded()))
            try:
                self._process.wait(POLL)
                return
            except subprocess.TimeoutExpired:
                pass

    def _encoded(self) -> int:
        """Frames encoded, by ffmpeg's latest progress report."""
        try:
            with self._progress.open("rb") as progress:
                progress.seek(max(0, self._progress.stat().st_size - 4096))
                found = re.findall(rb"^frame=\s*(\d+)$", progress.read(), re.MULTILINE)
        except OSError:  # no report yet
            return 0
        return int(found[-1]) if found else 0

    def _finish(self) -> None:
        part = self._part
        if self._format == "gif":
            manifests.add_gif_comment(part, self._comment)
        part.replace(self.path)

    def abort(self) -> None:
        """Kill ffmpeg and remove the unfinished file. Does nothing after `close`."""
        if self._closed:
            return
        self._closed = True
        self._process.kill()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        self._errors.close()
        self._scratch.cleanup()

    def _words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()[-2000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def poster(frame: NDArray[np.uint8], path: str | Path | None = None) -> bytes:
    """JPEG of one uint8 RGB frame [H, W, 3]; equal frames give equal bytes. If `path` is given, the JPEG is also
    written to that file."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a poster needs a uint8 [H, W, 3] frame, not {frame.dtype} {list(frame.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = buffer.getvalue()
    if path is not None:
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_bytes(data)
        part.replace(target)
    return data
