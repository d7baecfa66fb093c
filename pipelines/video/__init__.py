"""Write frames to MP4, GIF or WebM with the manifest inside; read input images and clips; check for broken output.

Knows: the bundled ffmpeg, file formats, uint8 RGB arrays. Does not know: torch, models, jobs, HTTP.

    writer.py    VideoWriter, poster
    manifest.py  read_manifest, check_format
    reader.py    read_video, Clip, resample_indices
    stream.py    ffmpeg's description of a clip, and the filters for it
    picture.py   read_picture
    colour.py    an image's profile and tags -> sRGB
    deep.py      images in high dynamic range -> sRGB
    kinds.py     the kind of a file, by its first bytes
    structure.py limits on the parts of an image file
    probe.py     check_clip
    check.py     FrameCheck
    process.py   the ffmpeg binary, and the formats it may open

Names are imported on first use, so that the processes that check images start without numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.video.check import BadOutput, FrameCheck
    from pipelines.video.manifest import ManifestError, check_format, read_manifest
    from pipelines.video.picture import read_picture
    from pipelines.video.process import MediaUnreadable
    from pipelines.video.reader import Clip, read_video, resample_indices
    from pipelines.video.writer import GIF_MAX_FPS, EncodeError, VideoWriter, poster

__all__ = [
    "GIF_MAX_FPS",
    "BadOutput",
    "Clip",
    "EncodeError",
    "FrameCheck",
    "ManifestError",
    "MediaUnreadable",
    "VideoWriter",
    "check_format",
    "poster",
    "read_manifest",
    "read_picture",
    "read_video",
    "resample_indices",
]
_MODULES = {
    "check": ("BadOutput", "FrameCheck"),
    "manifest": ("ManifestError", "check_format", "read_manifest"),
    "picture": ("read_picture",),
    "process": ("MediaUnreadable",),
    "reader": ("Clip", "read_video", "resample_indices"),
    "writer": ("GIF_MAX_FPS", "EncodeError", "VideoWriter", "poster"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
