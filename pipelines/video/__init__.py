"""Frames -> MP4 / GIF / WebM with the manifest inside, and back; a picture that was sent; is a clip broken.

Knows: the bundled ffmpeg, file formats, uint8 RGB arrays. Does not know: torch, models, jobs, HTTP.

    writer.py    VideoWriter, poster
    manifest.py  read_manifest
    reader.py    read_video, Clip, resample_indices
    picture.py   read_picture
    check.py     FrameCheck
    process.py   the ffmpeg binary, and what it may open
"""

from pipelines.video.check import BadOutput, FrameCheck
from pipelines.video.manifest import ManifestError, read_manifest
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
    "poster",
    "read_manifest",
    "read_picture",
    "read_video",
    "resample_indices",
]
