"""Any manifest survives a round trip through every format; damaged and foreign files have no manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.video import ManifestError, check_format, read_manifest
from pipelines.video.manifest import MANIFEST_FORMAT
from tests.rigs.videos import FORMATS, Format, read, run_ffmpeg, save, waves

MANIFEST: dict[str, Any] = {
    "prompt": 'two\nlines, "quotes", ;#=\\ and \t tab, ü 漢字 🎬',
    "long": "x;=#\\\n" * 20_000,
    "list": [1, 2.5, None, True, {"b": 1, "a": 2}],
}


@pytest.mark.parametrize("kind", FORMATS)
def test_manifest_comes_back(tmp_path: Path, kind: Format) -> None:
    path = save(tmp_path / "a", waves(3, 32, 32), kind, **MANIFEST)
    assert path.stat().st_size > 100_000
    assert read_manifest(path) == MANIFEST
    assert len(read(path).frames) == 3


@pytest.mark.parametrize("kind", FORMATS)
def test_empty_manifest_is_a_manifest(tmp_path: Path, kind: Format) -> None:
    assert read_manifest(save(tmp_path / "a", waves(3, 32, 32), kind)) == {}


def test_gif_with_comment_still_opens_elsewhere(tmp_path: Path) -> None:
    with Image.open(save(tmp_path / "a.gif", waves(3, 32, 32), "gif", seed=5)) as picture:
        picture.seek(2)
        assert picture.info["comment"] == b'{"seed":5}'


@pytest.mark.parametrize("kind", FORMATS)
def test_torn_and_foreign_files_have_no_manifest(tmp_path: Path, kind: Format) -> None:
    whole = save(tmp_path / "a", waves(3, 32, 32), kind, seed=5).read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ManifestError):
        read_manifest(torn)


def test_foreign_files_have_no_manifest(tmp_path: Path) -> None:
    foreign = tmp_path / "a.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:d=1", "-metadata", "comment=hello", "-c:v", "mpeg4", foreign)
    with pytest.raises(ManifestError, match="not a manifest"):
        read_manifest(foreign)
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:d=1", "-c:v", "mpeg4", foreign)
    with pytest.raises(ManifestError, match="no manifest"):
        read_manifest(foreign)
    for content in (b"", b"hello", b"GIF89a", b"\x89PNG\r\n\x1a\n"):
        foreign.write_bytes(content)
        with pytest.raises(ManifestError):
            read_manifest(foreign)
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "absent")


def test_a_manifest_of_another_version_is_refused() -> None:
    check_format({"format": MANIFEST_FORMAT, "request": {}})
    with pytest.raises(ManifestError, match="without a format"):
        check_format({"request": {}, "plan": {}})
    with pytest.raises(ManifestError, match=f"of format {MANIFEST_FORMAT + 1}; this version reads"):
        check_format({"format": MANIFEST_FORMAT + 1})
