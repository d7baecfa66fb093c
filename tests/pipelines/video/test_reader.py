"""Reads clips that are rotated, have a variable rate or sound, are too long or truncated, or are no videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.video import MediaUnreadable, VideoWriter, read_video, resample_indices
from pipelines.video.probe import KEPT_PIXELS, PIXELS, check_clip
from tests.rigs.videos import FORMATS, Format, code_of, describe, read, run_ffmpeg, save, waves


def test_rotation_by_metadata_is_applied(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    frames[:, :, :32] = 255  # white on the left
    source = save(tmp_path / "a.mp4", frames)
    run_ffmpeg("-display_rotation", "90", "-i", source, "-c", "copy", tmp_path / "turned.mp4")
    clip = read(tmp_path / "turned.mp4")
    assert (clip.width, clip.height) == (32, 64)
    left_went_down = clip.frames[0, 48:].mean() > 200 > 50 > clip.frames[0, :16].mean()
    assert left_went_down


def test_audio_and_second_streams_do_not_matter(tmp_path: Path) -> None:
    source = save(tmp_path / "a.mp4", waves(16, 32, 32))
    both = tmp_path / "b.mp4"
    run_ffmpeg("-i", source, "-f", "lavfi", "-i", "sine=d=2", "-c:v", "copy", "-c:a", "aac", both)
    assert "Audio: aac" in describe(both)
    assert np.array_equal(read(both).frames, read(source).frames)


def test_variable_rate_is_made_even(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"  # 10 frames at 10 fps, then 10 at 5 fps: 20 frames over 2.8 s
    when = "setpts='if(lt(N,10),N,10+(N-10)*2)/10/TB'"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=32x32:r=10:d=2"),
        *("-vf", f"geq=lum='N*12':cb=128:cr=128,settb=1/1000,{when}"),
        *("-fps_mode", "passthrough", "-c:v", "libx264", "-crf", "5", path),
    )
    clip = read(path)
    assert len(clip.frames) == 20
    assert clip.fps == pytest.approx(19 / 2.8, rel=0.01)
    level = clip.frames.mean(axis=(1, 2, 3))
    halfway = level[10] - level[0]  # at 1.47 s the source shows frame 12, two slow frames after frame 10 (1.0 s)
    assert halfway / (level[-1] - level[0]) == pytest.approx(12 / 19, abs=0.05)


def test_limits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", waves(40, 64, 96))  # 5 s
    assert len(read(path, max_seconds=5, max_frames=40, max_pixels=64 * 96).frames) == 40
    assert code_of(lambda: read(path, max_seconds=4)) == "video_duration_too_long"
    assert code_of(lambda: read(path, max_frames=39)) == "video_duration_too_long"
    assert code_of(lambda: read(path, max_pixels=64 * 96 - 1)) == "file_too_large"
    large = save(tmp_path / "large.mp4", waves(2, 720, 720))
    assert code_of(lambda: read(large, max_pixels=1000)) == "file_too_large"


def test_a_length_the_header_hides_is_still_limited(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"  # a live WebM states no duration
    run_ffmpeg("-i", save(tmp_path / "a.mp4", waves(40, 32, 32)), "-c:v", "libvpx-vp9", "-live", "1", path)
    run_ffmpeg("-i", path, "-c", "copy", "-f", "webm", "-live", "1", "pipe:1")
    assert code_of(lambda: read(path, max_seconds=4)) == "video_duration_too_long"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4096, b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 99])
def test_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert code_of(lambda: read(path)) == "unsupported_video_format"


def test_no_video_at_all(tmp_path: Path) -> None:
    assert code_of(lambda: read(tmp_path / "absent")) == "unsupported_video_format"
    sound, cover = tmp_path / "a.mp4", tmp_path / "cover.jpg"
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", sound)
    assert code_of(lambda: read(sound)) == "unsupported_video_format"
    Image.new("RGB", (32, 32)).save(cover)
    song = tmp_path / "a.m4a"
    covered = ("-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic", "-c:a", "aac")
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-i", cover, *covered, song)
    assert "attached pic" in describe(song)
    assert code_of(lambda: read(song)) == "unsupported_video_format"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.95])
def test_files_that_were_cut_off(tmp_path: Path, kind: Format, share: float) -> None:
    whole = save(tmp_path / "a", waves(25, 64, 96), kind, note="File ended prematurely: partial file")
    assert len(read(whole).frames) == 25
    torn = tmp_path / "torn"
    torn.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    assert code_of(lambda: read(torn)) in {"unsupported_video_format", "video_duration_too_short"}


def test_scripts_that_pose_as_video_open_nothing(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.mp4", waves(3, 32, 32))
    picture = tmp_path / "secret.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    scripts = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "hls-relative": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile secret.mp4\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{picture}" width="9" height="9"/></svg>',
    }
    for name, text in scripts.items():
        for suffix in ("mp4", "m3u8", "webm"):
            path = tmp_path / f"{name}.{suffix}"
            path.write_text(text)
            assert code_of(lambda p=path: read(p)) == "unsupported_video_format"  # type: ignore[misc]


def test_a_slow_file_is_given_up(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", waves(40, 64, 96))
    with pytest.raises(MediaUnreadable):
        read_video(path, max_frames=99, max_pixels=10**6, max_seconds=9, timeout=0)


def test_resampling_takes_the_nearest_frame() -> None:
    assert resample_indices(49, 8, 8, 49) == list(range(49))
    assert resample_indices(60, 30, 8, 9) == [0, 4, 7, 11, 15, 19, 22, 26, 30]
    # at equal distance the earlier frame is taken; the last frame repeats
    assert resample_indices(3, 8, 16, 6) == [0, 0, 1, 1, 2, 2]
    assert resample_indices(300, 30000 / 1001, 8, 3) == [0, 4, 7]
    assert resample_indices(5, 8, 8, 0) == []
    for bad in ((0, 8, 8, 1), (1, 0, 8, 1), (1, 8, -1, 1), (1, 8, 8, -1)):
        with pytest.raises(ValueError, match="cannot take"):
            resample_indices(*bad)


def test_only_the_start_is_read_and_large_frames_are_scaled_down(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    with VideoWriter(path, 320, 160, 10, "mp4", {}) as writer:
        for shade in range(100):
            writer.write(np.full((160, 320, 3), 2 * shade, np.uint8))
    clip = read_video(path, max_frames=25, max_pixels=10**6, max_seconds=60, first_seconds=2.0, longest_side=64)
    assert clip.frames.shape == (20, 32, 64, 3)
    assert clip.fps == 10
    assert abs(int(clip.frames[-1].mean()) - 38) <= 3
    upright = read_video(path, max_frames=200, max_pixels=10**6, max_seconds=60, longest_side=4000)
    assert upright.frames.shape == (100, 160, 320, 3)


@pytest.mark.parametrize("size", ["3840x2160", "2160x3840", "2560x1440", "1920x1200", "4096x2160", "5312x2988"])
def test_large_frames_are_scaled_as_they_are_decoded(tmp_path: Path, size: str) -> None:
    path = tmp_path / "a.mp4"
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"color=white:s={size}:r=8:d=0.25,drawbox=w=iw/2:c=black:t=fill"),
        *("-c:v", "libx264", "-preset", "ultrafast", path),
    )
    check_clip(path)
    clip = read_video(path, max_frames=9, max_pixels=KEPT_PIXELS, source_pixels=PIXELS, max_seconds=60)
    width, height = map(int, size.split("x"))
    assert 0.97 * KEPT_PIXELS < clip.width * clip.height <= KEPT_PIXELS
    assert clip.width / clip.height == pytest.approx(width / height, rel=0.005)
    middle = clip.width // 2
    assert clip.frames[:, :, : middle - 4].max() < 5 and clip.frames[:, :, middle + 4 :].min() > 250


def test_frames_that_are_too_large_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=s=7680x4320:r=1:d=1", "-c:v", "libx264", "-preset", "ultrafast", path)
    with pytest.raises(MediaUnreadable, match="at most 16 million pixels") as e:
        check_clip(path)
    assert e.value.code == "file_too_large"
    with pytest.raises(MediaUnreadable, match=r"are 96x64; at most 0\.006 million"):
        read(save(tmp_path / "b.mp4", waves(2, 64, 96)), max_pixels=6000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
def test_a_clip_is_as_long_as_its_picture(tmp_path: Path, suffix: str) -> None:
    short, long = tmp_path / f"short.{suffix}", tmp_path / f"long.{suffix}"
    picture = save(tmp_path / "a.mp4", waves(16, 32, 32))  # 2 s
    run_ffmpeg("-i", picture, "-f", "lavfi", "-i", "sine=d=70", "-c:v", "copy", "-c:a", "aac", short)
    run_ffmpeg(
        "-stream_loop", "34", "-i", picture, "-f", "lavfi", "-i", "sine=d=5", "-c:v", "copy", "-c:a", "aac", long
    )
    check_clip(short, longest=60)
    assert len(read(short, max_seconds=60).frames) == 16
    assert code_of(lambda: check_clip(long, longest=60)) == "video_duration_too_long"
    assert code_of(lambda: read(long, max_seconds=60, max_frames=1000)) == "video_duration_too_long"


def test_a_length_the_header_hides_is_found_before_a_job_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    run_ffmpeg("-i", save(tmp_path / "a.mp4", waves(40, 32, 32)), "-c:v", "libvpx-vp9", "-live", "1", path)
    path.write_bytes(path.read_bytes().replace(b"\x44\x89", b"\xec\x82", 1).replace(b"DURATION", b"XURATION"))
    assert "Duration: N/A" in describe(path)
    check_clip(path, longest=6)
    assert code_of(lambda: check_clip(path, longest=4)) == "video_duration_too_long"


def test_the_message_names_what_was_sent(tmp_path: Path) -> None:
    raw = tmp_path / "a.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=8:d=1", "-c:v", "jpeg2000", raw)
    for kind in ("jpg", "avif"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"a.{kind}")
    (tmp_path / "page").write_bytes(b"<!doctype html><p>Not found")
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W2 H2 F8:1\nFRAME\n" + bytes(6))
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "a.m4a")
    cover = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic")
    run_ffmpeg("-i", tmp_path / "a.m4a", "-i", tmp_path / "a.jpg", *cover, tmp_path / "song.m4a")
    for name, words in (
        ("a.mp4", "encoded as jpeg2000"),
        ("a.jpg", "a JPEG image"),
        ("a.avif", "an AVIF"),
        ("page", "an HTML page"),
        ("a.y4m", "a Y4M video"),
        ("a.m4a", "sound without a video"),
        ("song.m4a", "sound without a video"),  # a cover image is not a video
    ):
        with pytest.raises(MediaUnreadable, match=words) as e:
            check_clip(tmp_path / name)
        assert e.value.code == "unsupported_video_format"
