"""Interpolated files: frame count and duration as reported by ffmpeg."""

from __future__ import annotations

from pathlib import Path

import pytest
from imageio_ffmpeg import count_frames_and_secs

from tests.rigs.engines import ask, finished, frames_of, new_engine
from tests.rigs.videos import describe


@pytest.mark.parametrize(
    ("model", "own_rate", "frames", "rate", "wanted"),
    [
        *(("5b", 8, 9, 16, 18), ("5b", 8, 9, 24, 27), ("5b", 8, 9, 30, 34), ("5b", 8, 9, 32, 36), ("5b", 8, 9, 60, 68)),
        *(("5b", 8, 9, 4, 5), ("5b", 8, 8, 30, 30), ("5b", 8, 9, 8, 9)),
        *(("1.5-5b", 16, 17, 30, 32), ("1.5-5b", 16, 10, 60, 38)),
    ],
)
def test_frames_and_seconds(model: str, own_rate: int, frames: int, rate: int, wanted: int, tmp_path: Path) -> None:
    request = ask(num_frames=frames, num_inference_steps=1, interpolate_fps=rate, width=64, height=48)
    result = finished(new_engine().run(request, model))
    path = tmp_path / "video.mp4"
    path.write_bytes(result.video)
    found, seconds = count_frames_and_secs(path)
    assert (result.frames, found, result.fps) == (wanted, wanted, rate)
    assert seconds == pytest.approx(wanted / rate, abs=0.02)
    assert seconds == pytest.approx(frames / own_rate, abs=0.5 / rate + 0.02), "the duration of the model's own video"
    assert f"{rate} fps" in describe(path)
    assert len(frames_of(result, tmp_path)) == wanted
    drawn = any("small network" in note for note in result.manifest["notes"])
    assert drawn == (rate not in (own_rate, own_rate // 2)), "no interpolation at a rate that divides the model's"


@pytest.mark.parametrize("rate", [16, 24, 30, 60])
def test_a_duration_is_kept_exactly(rate: int, tmp_path: Path) -> None:
    request = ask(num_frames=None, duration=1, num_inference_steps=1, interpolate_fps=rate, width=64, height=48)
    path = tmp_path / "video.mp4"
    path.write_bytes(finished(new_engine().run(request, "5b")).video)
    found, seconds = count_frames_and_secs(path)
    assert found == rate
    assert seconds == pytest.approx(1, abs=0.02)
