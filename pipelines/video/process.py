"""The bundled ffmpeg, the options of every call that reads a file, and the error for unreadable media."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import imageio_ffmpeg

MediaCode = Literal[
    "unsupported_video_format",
    "video_duration_too_long",
    "video_duration_too_short",
    "file_too_large",
    "unsupported_image_format",
    "image_too_large",
    "image_load_error",
]

# Containers that hold all their data. HLS, DASH, concat and image sequences are not included, because they list other
# files, and an upload must not make ffmpeg open other files.
_FORMATS = "mov,matroska,gif,avi,mpegts,mpeg,flv,asf,ogg,mxf,ivf,apng,webp_anim"
_DECODERS = ",".join(
    (
        "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,av1,libdav1d",
        "mpeg1video,mpeg2video,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,h263,flv,vp6f,theora,wmv1,wmv2,wmv3,vc1,dvvideo",
        "prores,dnxhd,cfhd,mjpeg,ffv1,ffvhuff,huffyuv,utvideo,qtrle,png,rawvideo,v210",
        "gif,apng,webp,webp_anim",
    )
)


class MediaUnreadable(ValueError):
    """An input image or clip cannot be used; `code` is one of the error codes that the vendors' APIs share."""

    def __init__(self, code: MediaCode, message: str) -> None:
        super().__init__(message)
        self.code: MediaCode = code


def ffmpeg() -> str:
    """Path of the ffmpeg binary. Raises imageio-ffmpeg's RuntimeError if there is none."""
    exe: str = imageio_ffmpeg.get_ffmpeg_exe()
    return exe


def file_url(path: Path) -> str:
    """`path` as a URL, so that ffmpeg treats it as a file even with `:` in it or `-` at its start."""
    return f"file:{path.absolute()}"


def guarded_input(path: Path, formats: str = _FORMATS) -> list[str]:
    """Arguments that open `path` and nothing else."""
    return [
        *("-protocol_whitelist", "file,pipe", "-format_whitelist", formats, "-codec_whitelist", _DECODERS),
        *("-i", file_url(path)),
    ]
