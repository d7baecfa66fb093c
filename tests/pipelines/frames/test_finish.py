"""Tests how the model's frames become the file's frames (trimming, frame rates, interpolation, upscaling) and how
sources are fitted."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.frames.finish import enlarges, finish
from pipelines.frames.rife import build
from pipelines.frames.source import source_frames
from pipelines.plan import Plan
from pipelines.request import Task
from pipelines.video import Clip
from tests.pipelines.frames.test_rife import TINY, state_dict
from tests.rigs.engines import ask, finished, frames_of, new_engine
from tests.rigs.plans import plan

SIZE = {"width": 32, "height": 16}


def chunks(count: int, asked: list[int] | None = None) -> Iterator[torch.Tensor]:
    """Yields a chunk of 9 frames and then chunks of 8 frames, as the decoder does; all values of frame k are 5k.
    `asked` collects the number of each chunk's first frame."""
    frames = torch.stack([torch.full((3, 48, 72), 5 * k, dtype=torch.uint8) for k in range(count)])
    for start in (0, *range(9, count, 8)):
        end = start + (8 if start else 9)
        if asked is not None:
            asked.append(start)
        yield frames[start:end]


def shown(p: Plan, net: Any = None, asked: list[int] | None = None) -> list[float]:
    """Returns the position (possibly fractional) of each file frame among the model's frames."""
    frames = [frame for chunk in finish(chunks(p.sampling.model_frames, asked), p, net) for frame in chunk]
    assert all(frame.shape == (16, 32, 3) and frame.dtype == np.uint8 for frame in frames)
    return [float(frame.mean()) / 5 for frame in frames]


def test_as_made_trimmed_and_spread() -> None:
    assert shown(plan(**SIZE)) == list(range(49))
    asked: list[int] = []
    assert shown(plan(num_frames=10, **SIZE), asked=asked) == list(range(10))
    assert asked == [0, 9], "only the required frames are decoded"
    assert shown(plan(num_frames=97, **SIZE)) == [round(k / 2) for k in range(97)]


@pytest.mark.parametrize("rate", [30, 60, 12])
def test_a_frame_is_repeated_for_as_long_as_it_lasts(rate: int) -> None:
    video = shown(plan(duration=5, fps=rate, **SIZE))
    assert len(video) == 5 * rate
    assert max(abs(place - k * 8 / rate) for k, place in enumerate(video)) <= 0.5


def test_a_rate_below_the_models_leaves_frames_out() -> None:
    assert shown(plan(duration=5, fps=4, **SIZE)) == list(range(0, 40, 2))


def test_too_little_motion_is_slowed_down_evenly() -> None:
    video = shown(plan(duration=10, fps=30, **SIZE))
    assert (len(video), video[0], video[-1]) == (300, 0, 48)
    assert max(abs(place - k * 48 / 299) for k, place in enumerate(video)) <= 0.5


@pytest.mark.parametrize(("seconds", "rate", "step"), [(1, 30, 8 / 30), (1, 60, 8 / 60), (8, 12, 48 / 95)])
def test_interpolation_draws_what_lies_between(seconds: int, rate: int, step: float) -> None:
    net = build(state_dict(TINY))  # draws the midpoint of two frames, whichever time is requested
    video = shown(plan(duration=seconds, interpolate_fps=rate, **SIZE), net)
    assert len(video) == seconds * rate
    for k, place in enumerate(video):
        exact = k * step
        lies_on_a_frame = abs(exact - round(exact)) < 1e-6
        assert place == pytest.approx(round(exact) if lies_on_a_frame else int(exact) + 0.5, abs=0.11)


@pytest.mark.parametrize("rate", [16, 32])
def test_interpolation_holds_the_last_frame_for_its_time(rate: int) -> None:
    video = shown(plan(num_frames=9, interpolate_fps=rate, **SIZE), build(state_dict(TINY)))
    assert len(video) / rate == 9 / 8
    assert video[-rate // 8 :] == pytest.approx([8] * (rate // 8), abs=0.11) and video[-rate // 8 - 1] < 7.7


@pytest.mark.parametrize("rife", [False, True])
def test_a_duration_is_in_the_file(rife: bool, tmp_path: Path) -> None:
    weights = tmp_path / "rife.pth"
    torch.save(state_dict("4.25"), weights)
    request = ask(num_frames=None, duration=1.5, num_inference_steps=1, **{"interpolate_fps" if rife else "fps": 30})
    result = finished(new_engine(rife=weights).run(request, "5b"))
    assert (result.frames, result.fps, len(frames_of(result, tmp_path))) == (45, 30, 45)


class Doubling:
    """A 2x upscaler that records the numbers of its input frames and adds 2 to every output value."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        self.given.append(int(frame[0, 0, 0]) // 5)
        return torch.nn.functional.interpolate(frame[None].float(), scale_factor=2)[0].to(torch.uint8) + 2


LARGE = {"width": 744, "height": 496}  # slightly larger than the model's size


def enlarged(p: Plan, net: Any = None) -> tuple[list[int], list[float]]:
    upscaler = Doubling()
    frames = [frame for chunk in finish(chunks(p.sampling.model_frames), p, net, upscaler) for frame in chunk]
    assert all(frame.shape == (496, 744, 3) for frame in frames)
    return upscaler.given, [(float(frame.mean()) - 2) / 5 for frame in frames]


def test_an_upscaler_sees_each_frame_that_is_shown_once() -> None:
    given, video = enlarged(plan(duration=5, fps=24, **LARGE))
    assert given == list(range(41)) and len(video) == 120
    given, video = enlarged(plan(duration=2, fps=4, **LARGE))
    assert given == video == list(range(0, 16, 2)), "skipped frames are not upscaled"


def test_interpolation_comes_after_the_upscaler() -> None:
    given, video = enlarged(plan(num_frames=9, interpolate_fps=16, **LARGE), build(state_dict(TINY)))
    assert given == list(range(9)), "interpolated frames are not upscaled"
    assert video == pytest.approx([*(k / 2 for k in range(17)), 8], abs=0.11)


@pytest.mark.parametrize(
    ("values", "larger"),
    [
        ({}, False),
        ({"width": 720, "height": 480}, False),
        ({"width": 360, "height": 240}, False),
        ({"width": 480, "height": 480}, False),
        ({"width": 1440, "height": 960}, True),
        ({"width": 722, "height": 482}, True),
        ({"width": 480, "height": 720, "fit": "pad"}, False),
        ({"width": 480, "height": 720, "fit": "crop"}, True),
        ({"width": 480, "height": 720, "fit": "stretch"}, True),
    ],
)
def test_when_more_pixels_are_wanted_than_the_model_makes(values: dict[str, Any], larger: bool) -> None:
    assert enlarges(plan(**values)) is larger


@pytest.mark.parametrize("rate", [None, 16])
def test_frames_are_let_go_as_they_leave(rate: int | None) -> None:
    """Only a few chunks are in memory at a time, whatever the length of the video."""
    net = build(state_dict(TINY)) if rate else None
    held: list[weakref.ref[np.ndarray]] = []
    most = 0
    for chunk in finish(chunks(49), plan(interpolate_fps=rate, width=64, height=32), net):
        held.append(weakref.ref(chunk))
        most = max(most, sum(one() is not None for one in held))
    assert len(held) >= 6
    assert most <= 2


BARRED = np.zeros((60, 120, 3), np.uint8)  # blue, with a red bar at the left and a green bar at the right
BARRED[..., 2] = 255
BARRED[:, :20], BARRED[:, -20:] = (255, 0, 0), (0, 255, 0)


@pytest.mark.parametrize(
    ("way", "row"),
    [("crop", "bbbb"), ("pad", "rbbg"), ("stretch", "rbbg"), ("auto", "bbbb")],
)
@pytest.mark.parametrize("task", [Task.I2V, Task.V2V])
def test_a_source_is_fitted_as_asked(task: Task, way: Any, row: str) -> None:
    """In a square frame, cropping removes both bars, padding adds black above and below, stretching does neither."""
    p = replace(plan().sampling, task=task, source_fit=way, model_width=64, model_height=64, model_frames=9)
    clip = Clip(np.stack([BARRED] * 9), 8.0)
    (frame, *rest) = source_frames(p, Image.fromarray(BARRED), clip)  # type: ignore[misc]
    assert len(rest) == (8 if task is Task.V2V else 0)
    assert frame.shape == (64, 64, 3)
    assert "".join("rgb"[int(frame[32, x].argmax())] for x in (2, 24, 40, 61)) == row
    assert (frame[2].max() < 30) == (way == "pad")


def test_a_source_that_would_lose_more_than_half_is_padded() -> None:
    p = replace(plan().sampling, task=Task.I2V, source_fit="auto", model_width=64, model_height=64)
    wide = np.full((20, 120, 3), 255, np.uint8)
    (frame,) = source_frames(p, Image.fromarray(wide), None)  # type: ignore[misc]
    assert frame[2].max() < 30 < 200 < frame[32].min()
