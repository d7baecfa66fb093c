"""The video writer: its files are decoded and compared with the input frames."""

from __future__ import annotations

import io
import re
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.video import EncodeError, VideoWriter, poster, read_manifest
from pipelines.video.process import ffmpeg
from tests.rigs.videos import FORMATS, Format, describe, psnr, read, save, waves


@pytest.mark.parametrize(("kind", "least"), [("mp4", 36), ("webm", 36), ("gif", 24)])
def test_what_is_written_comes_back(tmp_path: Path, kind: Format, least: float) -> None:
    frames = waves(49, 64, 96)
    with VideoWriter(tmp_path / "a", 96, 64, 8, kind, {}) as writer:
        writer.write(frames[:20])
        writer.write(frames[20])
        writer.write(frames[21:])
        assert not (tmp_path / "a").exists()
    clip = read(tmp_path / "a")
    assert clip.frames.shape == frames.shape
    assert clip.fps == 8
    assert psnr(clip.frames, frames) > least
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_gif_and_mp4_keep_frames_that_do_not_change(tmp_path: Path) -> None:
    frames = np.repeat(waves(1, 32, 32), 9, axis=0)
    for kind in FORMATS:
        assert len(read(save(tmp_path / kind, frames, kind)).frames) == 9


def boxes(data: bytes) -> list[bytes]:
    names, at = [], 0
    while at < len(data):
        names.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    return names


def test_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", waves(17, 64, 96), fps=16)
    found = describe(path)
    assert re.search(r"Video: h264 \(High\).*yuv420p\(tv, bt709, progressive\), 96x64.* 16 fps", found)
    order = boxes(path.read_bytes())
    assert order.index(b"moov") < order.index(b"mdat")


def test_webm_is_vp9_and_gif_loops(tmp_path: Path) -> None:
    webm = describe(save(tmp_path / "a.webm", waves(5, 64, 96), "webm"))
    assert re.search(r"Video: vp9 .*yuv420p\(tv, bt709", webm)
    gif = save(tmp_path / "a.gif", waves(5, 64, 96), "gif")
    assert b"NETSCAPE2.0\x03\x01\x00\x00\x00" in gif.read_bytes()
    with Image.open(gif) as picture:
        assert picture.n_frames == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_colours_are_converted_as_bt709(tmp_path: Path, kind: Format) -> None:
    red = np.zeros((5, 64, 64, 3), np.uint8)
    red[..., 0] = 255
    path = save(tmp_path / "a", red, kind)
    luma = subprocess.run(
        [ffmpeg(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-vf", "extractplanes=y", "-"],
        capture_output=True,
        check=True,
    ).stdout
    # BT.709 gives 16 + 219 * 0.2126; BT.601 would give 16 + 219 * 0.299 = 81
    assert abs(np.frombuffer(luma, np.uint8).mean() - 62.6) < 2
    assert np.abs(read(path).frames.astype(int) - red).max() <= 3


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(65, 97), (64, 97), (65, 96), (33, 31)])
def test_odd_sizes_lose_no_pixel(tmp_path: Path, kind: Format, size: tuple[int, int]) -> None:
    frames = waves(5, *size)
    with VideoWriter(tmp_path / "a", size[1], size[0], 8, kind, {}) as writer:
        writer.write(frames)
    clip = read(tmp_path / "a")
    assert (clip.width, clip.height) == (writer.coded_width, writer.coded_height)
    assert kind == "mp4" or (clip.height, clip.width) == size
    assert clip.width - size[1] == (size[1] % 2 if kind == "mp4" else 0)
    assert psnr(clip.frames[:, : size[0], : size[1]], frames) > 24
    assert (
        psnr(
            clip.frames[:, -1],
            frames[:, -1] if clip.width == size[1] else np.pad(frames[:, -1], ((0, 0), (0, 1), (0, 0)), mode="edge"),
        )
        > 20
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_inputs_give_equal_bytes(tmp_path: Path, kind: Format) -> None:
    height, width = (64, 96) if kind == "gif" else (128, 192)
    frames = waves(25, height, width)
    files = []
    for k in range(3):  # each file gets other chunks, and the first file another order of the manifest's keys
        manifest = {"seed": 7, "prompt": "a"} if k else {"prompt": "a", "seed": 7}
        with VideoWriter(tmp_path / f"{k}", width, height, 8, kind, manifest) as writer:
            for part in np.array_split(frames, k + 1):
                writer.write(part)
        files.append((tmp_path / f"{k}").read_bytes())
    assert files[0] == files[1] == files[2]


def test_fractional_rate(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", waves(30, 32, 32), fps=Fraction(30000, 1001))
    assert "29.97 fps" in describe(path)
    assert abs(read(path).fps - 30000 / 1001) < 1e-6


def test_an_exception_leaves_nothing_and_no_process(tmp_path: Path) -> None:
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 32, 32, 8, "mp4", {}) as writer:
        writer.write(waves(3, 32, 32))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert writer._process.returncode is not None
    with pytest.raises(ValueError, match="closed"):
        writer.write(waves(1, 32, 32))


def test_the_old_file_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", waves(3, 32, 32))
    before = path.read_bytes()
    with pytest.raises(EncodeError, match="no frame"), VideoWriter(path, 32, 32, 8, "mp4", {}):
        pass
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_dead_ffmpeg_is_an_error_not_a_hang(tmp_path: Path) -> None:
    with pytest.raises(EncodeError), VideoWriter(tmp_path / "a.mp4", 512, 512, 8, "mp4", {}) as writer:
        writer._process.kill()
        for _ in range(50):
            writer.write(np.zeros((1, 512, 512, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 1}, "2x2"),
        ({"fps": 0}, "above 0"),
        ({"fps": float("nan")}, "above 0"),
        ({"kind": "avi"}, "none of"),
        ({"kind": "gif", "fps": 60}, "at most 50"),
        ({"manifest": {"a": float("nan")}}, "Out of range"),
    ],
)
def test_a_writer_that_cannot_be(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    a: dict[str, Any] = {"width": 32, "height": 32, "fps": 8, "kind": "mp4", "manifest": {}, **change}
    with pytest.raises(ValueError, match=match):
        VideoWriter(tmp_path / "a", a["width"], a["height"], a["fps"], a["kind"], a["manifest"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [np.zeros((1, 32, 30, 3), np.uint8), np.zeros((1, 32, 32, 3), np.float32)])
def test_frames_of_another_kind_are_refused(tmp_path: Path, frames: Any) -> None:
    with pytest.raises(ValueError, match="frames must be"), VideoWriter(tmp_path / "a", 32, 32, 8, "mp4", {}) as w:
        w.write(frames)


def test_paths_that_look_like_something_else(tmp_path: Path) -> None:
    path = save(tmp_path / "-i http:a b%03d.mp4", waves(3, 32, 32), seed=1)
    assert read_manifest(path) == {"seed": 1}
    assert len(read(path).frames) == 3


def test_poster_is_a_jpeg_of_the_frame(tmp_path: Path) -> None:
    frame = waves(1, 65, 97)[0]
    data = poster(frame, tmp_path / "p.jpg")
    assert data == poster(frame) == (tmp_path / "p.jpg").read_bytes()
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        assert image.size == (97, 65)
        assert psnr(np.asarray(image), frame) > 34
    with pytest.raises(ValueError, match="poster"):
        poster(waves(1, 8, 8))
