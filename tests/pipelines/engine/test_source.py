"""Reading a request's image or clip: notes, size limits, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engine.source import PIXELS, read_source
from pipelines.errors import GenerationError
from pipelines.plan import Plan
from pipelines.request import Media
from pipelines.resolve import resolve
from tests.pipelines.video.test_colours import PQ_LEVELS, X265, converted
from tests.rigs.plans import ask, model
from tests.rigs.scenes import SCENE, encode, saved, with_chunk
from tests.rigs.videos import run_ffmpeg


def planned(name: str, **media: Path) -> Plan:
    info = model(name)
    request = ask(strict=True, **{field: Media(str(path), "0" * 64) for field, path in media.items()})
    return resolve(request, info, source=read_source(request, info)[2])


@pytest.mark.parametrize(
    ("picture", "note"),
    [
        (saved(SCENE, "PNG"), None),
        (saved(SCENE, "PNG", icc_profile=b"none"), "image: colour profile -> sRGB (its colour profile is damaged)"),
        (with_chunk(saved(PQ_LEVELS, "PNG"), b"cICP", bytes([9, 16, 0, 1])), "image: PQ (HDR) -> sRGB"),
    ],
)
def test_notes_on_pictures(tmp_path: Path, picture: bytes, note: str | None) -> None:
    (tmp_path / "a").write_bytes(picture)
    told = [str(n) for n in planned("cogvideox-5b-i2v", image=tmp_path / "a").notes if n.field == "image"]
    assert [n[: len(note or "")] for n in told] == ([] if note is None else [note])


def test_notes_on_clips(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", SCENE, *converted("m=2020_ncl:p=2020:t=arib-std-b67"), *X265, frames=9)
    (note,) = [n for n in planned("cogvideox-5b", video=path).notes if n.field == "video"]
    assert str(note).startswith(
        "video: HLG (HDR) -> sRGB (the model knows no high dynamic range; light above 162 cd/m2"
    )


def test_a_large_clip_is_kept_small(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=2560x1440:r=8:d=2", "-c:v", "libx264", "-preset", "ultrafast", path)
    for name, longest in (("cogvideox-5b", 1440), ("cogvideox-1.5-5b", 2720)):
        info = model(name)
        clip = read_source(ask(video=Media(str(path), "0" * 64)), info)[1]
        assert clip is not None and max(clip.width, clip.height) <= longest and clip.width * clip.height <= PIXELS
        assert clip.width / clip.height == pytest.approx(16 / 9, rel=0.01)


def test_what_cannot_be_read_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"<!doctype html>")
    for field, name in (("image", "cogvideox-5b-i2v"), ("video", "cogvideox-5b")):
        with pytest.raises(GenerationError, match="an HTML page") as e:
            planned(name, **{field: tmp_path / "page"})
        assert e.value.field == field
