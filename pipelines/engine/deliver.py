"""From clean latents to the file: decode, finish, encode, chunk by chunk.

Knows: the order in which frames pass the VAE, the finishers and the encoder; that all of it begins again one rung lower
when memory runs out. Does not know: sampling, what becomes of the file.
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
from pipelines.engine.run import Film
from pipelines.errors import GenerationError
from pipelines.events import Event
from pipelines.frames.decode import watched
from pipelines.frames.finish import finish
from pipelines.frames.stitch import clip_frames
from pipelines.video import BadOutput, FrameCheck, VideoWriter, poster

MEDIA_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webm": "video/webm"}


def joint(film: Film, ladder: Ladder, device: torch.device) -> Generator[Event, None, np.ndarray]:
    """The last frame there is so far, uint8 [1, H, W, 3]. All clips are decoded again for the file: their frames
    would need memory for the whole video, or room on a disk."""

    def last() -> torch.Tensor:
        frame = film.joint
        film.meter.expect("decode", effort.decodings(film.clips), film.decoded)
        with _vae(film, film.clips[len(film.latents) - 1].model, ladder, device) as vae, film.meter.doing("decode"):
            for frames in clip_frames(vae, film.latents[-1].to(device), film.joint):
                film.clock.check()
                frame = frames[-1]
        if frame is None:
            raise GenerationError("internal", "a clip without frames")
        return frame.cpu()

    film.joint = yield from ladder.climb(last, "decoding")
    film.tiled |= ladder.placement.rung.tiling
    film.decoded += effort.calls(film.clips[len(film.latents) - 1])
    return film.joint.permute(1, 2, 0).contiguous().numpy()[None]


@contextlib.contextmanager
def _vae(film: Film, model: Model, ladder: Ladder, device: torch.device) -> Iterator[Any]:
    """The VAE of a model that may not be the one that is placed. The calls of its decoder are counted, and may end
    as `Clock.check` does."""
    placement = ladder.placement
    if placement.modules["vae"] is not model.vae:
        placement = Placement({"vae": model.vae}, device)
        placement.apply(Rung("model", ladder.placement.rung.tiling))

    def decoded() -> None:
        film.meter.count("decode")
        film.clock.check()

    with placement.on_device("vae") as vae, watched(vae, decoded):
        yield vae


def _frames(film: Film, ladder: Ladder, device: torch.device) -> Generator[torch.Tensor, None, None]:
    """uint8 [T, 3, H, W] of all clips."""
    joint = None
    for clip, latents in zip(film.clips, film.latents, strict=True):
        with _vae(film, clip.model, ladder, device) as vae:
            for frames in clip_frames(vae, latents.to(device), joint):
                yield frames
                joint = frames[-1]


def deliver(film: Film, ladder: Ladder, device: torch.device) -> Generator[Event, None, dict[str, Any]]:
    """Decode and encode, chunk by chunk; returns Finished's fields."""
    plan, meter = film.plan, film.meter
    fps = plan.interpolate_fps or plan.fps
    with tempfile.TemporaryDirectory(prefix="cogvideox-") as folder:
        path = Path(folder) / f"video.{plan.output_format}"

        def write() -> tuple[bytes, int, dict[str, Any]]:
            told = film.manifest(device, ladder.placement.rung)
            check, first, count = FrameCheck(), b"", 0
            effort.begin_delivery(meter, film)
            to_encode: list[int] = []

            def closing(left: int) -> None:
                film.clock.check()
                to_encode.append(min([max(1, left), *to_encode[-1:]]))  # the last is done when the file is whole
                if len(to_encode) == 1:
                    meter.expect("finish", to_encode[0] + effort.before_encoding(plan, to_encode[0]))
                elif (more := to_encode[-2] - to_encode[-1]) > 0:
                    begun = to_encode[-2] < to_encode[0]
                    meter.count("finish", more if begun else more + effort.before_encoding(plan, to_encode[0]))

            with meter.doing("finish"):
                with (
                    contextlib.closing(_frames(film, ladder, device)) as made,
                    VideoWriter(path, plan.width, plan.height, fps, plan.output_format, told, closing) as writer,
                ):
                    decoded = meter.over("decode", made, counted=False)
                    drawn = finish(decoded, plan, film.net, film.upscaler, meter.over)
                    for frames in meter.over("write", drawn, counted=False):
                        film.clock.check()
                        with meter.doing("write"):
                            first = first or poster(frames[0])
                            check.update(frames)
                            writer.write(frames)
                        count += len(frames)
                        meter.count("write", len(frames))
                    check.finish()
                if to_encode and to_encode[-1] < to_encode[0]:
                    meter.count("finish", to_encode[-1])
                elif to_encode:
                    meter.advance("finish", to_encode[0] + effort.before_encoding(plan, to_encode[0]))
            return first, count, told

        try:
            first, count, told = yield from ladder.climb(write, "decoding")
        except BadOutput as e:
            raise GenerationError("bad_output", str(e)) from e
        except OSError as e:
            raise GenerationError("internal", f"the video could not be written: {e.strerror or e}") from e
        video = path.read_bytes()
    return {
        "video": video,
        "poster": first,
        "media_type": MEDIA_TYPES[plan.output_format],
        "frames": count,
        "fps": fps,
        "width": plan.width,
        "height": plan.height,
        "manifest": told,
    }
