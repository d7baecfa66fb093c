"""From clean latents to the file: decode, finish and encode, chunk by chunk.

When memory runs out, the ladder goes one rung lower and all these steps begin again.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.engine import effort
from pipelines.engine.loader import Model
from pipelines.engine.memory import Ladder, Placement, Rung
from pipelines.engine.run import Run
from pipelines.errors import GenerationError
from pipelines.events import Event
from pipelines.frames.decode import watched
from pipelines.frames.finish import finish
from pipelines.frames.stitch import clip_frames
from pipelines.request import MEDIA_TYPES
from pipelines.video import BadOutput, FrameCheck, VideoWriter, poster


def joint(run: Run, ladder: Ladder, device: torch.device) -> Generator[Event, None, np.ndarray]:
    """Decode the latest clip and return its last frame, uint8 [1, H, W, 3]. The other frames are not kept, because they
    would take memory or disk space for the whole video. So every clip is decoded a second time for the file."""

    def last() -> torch.Tensor:
        frame = run.joint
        effort.begin_decoding(run)
        with _vae(run, run.clips[len(run.latents) - 1].model, ladder, device) as vae, run.meter.doing("decode"):
            for frames in clip_frames(vae, run.latents[-1].to(device), run.joint):
                run.clock.check()
                frame = frames[-1]
        if frame is None:
            raise GenerationError("internal", "a clip without frames")
        return frame.cpu()

    run.joint = yield from ladder.retry(last, "decoding")
    run.tiled |= ladder.placement.rung.tiling
    run.decoded += effort.calls(run.clips[len(run.latents) - 1])
    return run.joint.permute(1, 2, 0).contiguous().numpy()[None]


def deliver(run: Run, ladder: Ladder, device: torch.device) -> Generator[Event, None, dict[str, Any]]:
    """Write the file; returns the fields of Finished."""
    video = run.plan.video
    with tempfile.TemporaryDirectory(prefix="cogvideox-") as folder:
        path = Path(folder) / f"video.{video.output_format}"
        try:
            written = yield from ladder.retry(lambda: _write(run, path, ladder, device), "decoding")
        except BadOutput as e:
            raise GenerationError("bad_output", str(e)) from e
        except OSError as e:
            raise GenerationError("internal", f"the video could not be written: {e.strerror or e}") from e
        return {
            "video": path.read_bytes(),
            "media_type": MEDIA_TYPES[video.output_format],
            "fps": video.rate,
            "width": video.width,
            "height": video.height,
            **written,
        }


def _write(run: Run, path: Path, ladder: Ladder, device: torch.device) -> dict[str, Any]:
    """Decode, finish and encode all frames; returns poster, number of frames, and the manifest inside the file."""
    video, meter = run.plan.video, run.meter
    manifest = run.manifest(device, ladder.placement.rung)
    check, first, count = FrameCheck(), b"", 0
    effort.begin_delivery(run)
    unencoded = Unencoded(run)
    with meter.doing("finish"):
        with (
            contextlib.closing(_frames(run, ladder, device)) as decoded,
            VideoWriter(
                path, video.width, video.height, video.rate, video.output_format, manifest, unencoded.update
            ) as writer,
        ):
            timed = meter.over("decode", decoded, counted=False)
            finished = finish(timed, run.plan, run.interpolator, run.upscaler, meter.over)
            for frames in meter.over("write", finished, counted=False):
                run.clock.check()
                with meter.doing("write"):
                    first = first or poster(frames[0])
                    check.update(frames)
                    writer.write(frames)
                count += len(frames)
                meter.count("write", len(frames))
            check.finish()
        unencoded.close()
    return {"poster": first, "frames": count, "manifest": manifest}


def _frames(run: Run, ladder: Ladder, device: torch.device) -> Generator[torch.Tensor, None, None]:
    """Yield the frames of all clips, uint8 [T, 3, H, W]."""
    last = None
    for clip, latents in zip(run.clips, run.latents, strict=True):
        with _vae(run, clip.model, ladder, device) as vae:
            for frames in clip_frames(vae, latents.to(device), last):
                yield frames
                last = frames[-1]


@contextlib.contextmanager
def _vae(run: Run, model: Model, ladder: Ladder, device: torch.device) -> Iterator[Any]:
    """Yield the VAE of `model` on the device, even if the ladder's placement holds another VAE. Each call of the VAE's
    decoder is counted and may raise the exceptions of `Clock.check`."""
    placement = ladder.placement
    if placement.modules["vae"] is not model.vae:
        placement = Placement({"vae": model.vae}, device)
        placement.apply(Rung("model", ladder.placement.rung.tiling))

    def decoded() -> None:
        run.meter.count("decode")
        run.clock.check()

    with placement.on_device("vae") as vae, watched(vae, decoded):
        yield vae


class Unencoded:
    """Counts the stage "finish": first the work on a GIF's palette, then the frames that ffmpeg still has to encode
    after the last frame is written. The last frame is counted when the file is complete."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._at_first = 0
        self._left = 0
        self._palette = 0

    def update(self, left: int) -> None:
        """`left` is the number of frames that are not yet encoded."""
        self._run.clock.check()
        left = max(1, left)
        if not self._at_first:
            self._at_first = self._left = left
            self._palette = effort.before_encoding(self._run.plan.video, left)
            self._run.meter.expect("finish", left + self._palette)
        elif left < self._left:
            self._run.meter.count("finish", self._left - left + self._palette)
            self._left, self._palette = left, 0

    def close(self) -> None:
        if self._left < self._at_first:
            self._run.meter.count("finish", self._left)
        elif self._at_first:
            self._run.meter.advance("finish", self._left + self._palette)
