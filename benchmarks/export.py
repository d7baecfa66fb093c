"""Write images to MP4 like a plain diffusers user: with `export_to_video`, or with the ffmpeg call that it makes. Uses
none of this project.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

HAS_FFMPEG = importlib.util.find_spec("imageio_ffmpeg") is not None
HAS_IMAGEIO = importlib.util.find_spec("imageio") is not None
QUALITY = 5  # export_to_video's default


def export(pictures: list[Image.Image], file: Path, fps: int) -> None:
    """diffusers' `export_to_video`; without imageio, the ffmpeg call that imageio makes for it."""
    if HAS_IMAGEIO:
        from diffusers.utils import export_to_video

        export_to_video(pictures, str(file), fps=fps)
        return
    import imageio_ffmpeg

    arrays = [np.array(one) for one in pictures]
    writer = imageio_ffmpeg.write_frames(
        str(file), pictures[0].size, fps=fps, quality=QUALITY, macro_block_size=16, ffmpeg_log_level="error"
    )
    writer.send(None)
    for array in arrays:
        writer.send(np.ascontiguousarray(array))
    writer.close()


def how_encoded() -> str:
    if not HAS_FFMPEG:
        return "not measured: imageio-ffmpeg is not installed, both paths end with frames in host memory"
    if HAS_IMAGEIO:
        return "plain: diffusers export_to_video; ours: pipelines.video.VideoWriter"
    return (
        "plain: imageio_ffmpeg.write_frames as export_to_video calls it (imageio is not installed);"
        " ours: pipelines.video.VideoWriter"
    )
