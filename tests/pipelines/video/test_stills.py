"""HDR images are read as accurately as other images, unless their samples have too few bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.video import MediaUnreadable, read_picture
from tests.rigs.scenes import (
    BT2020,
    CLOSE,
    SCENE,
    SRGB,
    distance,
    levels,
    light_in,
    pq_curve,
    saved,
    srgb_curve,
    to_xyz,
    with_chunk,
)
from tests.rigs.stills import hdr_avif, hdr_avif_with_alpha, hdr_heic, hdr_levels, hdr_png, tiled

PQ_16 = (pq_curve(light_in(BT2020)) * 65535).round().astype(np.uint16)
PQ_8 = levels(pq_curve(light_in(BT2020)))
GREY = np.repeat(SCENE[..., 1:2], 3, 2)
OPAQUE = np.full(SCENE.shape[:2], 65535, np.uint16)
HLG = "arib-std-b67"

STILLS: dict[str, Callable[[Path], bytes]] = {
    "AVIF, PQ": lambda at: hdr_avif(at / "a.avif", SCENE),
    "AVIF, PQ, 4:2:0": lambda at: hdr_avif(at / "a.avif", SCENE, "yuv420p10le"),
    "AVIF, PQ, 12 bits": lambda at: hdr_avif(at / "a.avif", SCENE, "yuv444p12le"),
    "AVIF, PQ, full range": lambda at: hdr_avif(at / "a.avif", SCENE, to="m=2020_ncl:r=pc"),
    "AVIF, PQ, RGB": lambda at: hdr_avif(at / "a.avif", SCENE, "gbrp10le", "m=gbr:r=pc"),
    "AVIF, HLG": lambda at: hdr_avif(at / "a.avif", SCENE, curve=HLG),
    "AVIF, PQ, RGB of 8 bits": lambda at: hdr_avif(at / "a.avif", SCENE, "gbrp", "m=gbr:r=pc"),
    "HEIC, PQ": lambda _: hdr_heic(PQ_16),
    "HEIC, PQ, 4:2:0": lambda _: hdr_heic(PQ_16, chroma="420"),
    "HEIC, PQ, 12 bits": lambda _: hdr_heic(PQ_16, bit_depth=12),
    "HEIC, PQ, limited range": lambda _: hdr_heic(PQ_16, full_range_flag=0),
    "HEIC, PQ, RGB": lambda _: hdr_heic(PQ_16, matrix_coefficients=0),
    "HEIC, PQ, RGB of 8 bits": lambda _: hdr_heic(PQ_8, matrix_coefficients=0),
    "HEIC, PQ, tiles": lambda _: hdr_heic(PQ_16, tile_size=64),
    "HEIC, HLG": lambda at: hdr_heic(hdr_levels(at / "a.raw", SCENE, HLG), 18),
    "PNG, PQ, 16 bits": lambda at: hdr_png(at / "a.png", PQ_16),
    "PNG, HLG, 16 bits": lambda at: hdr_png(at / "a.png", hdr_levels(at / "a.raw", SCENE, HLG), transfer=18),
    "PNG, PQ, 8 bits": lambda _: with_chunk(saved(PQ_8, "PNG"), b"cICP", bytes([9, 16, 0, 1])),
}


@pytest.mark.parametrize("name", STILLS)
def test_high_dynamic_range(name: str, tmp_path: Path) -> None:
    data = STILLS[name](tmp_path)
    image = read_picture(data)
    assert image.mode == "RGB"
    assert distance(np.asarray(image)) <= CLOSE
    assert image.info["note"][0] == f"{'HLG' if 'HLG' in name else 'PQ'} (HDR)"
    half = np.asarray(read_picture(data, max_pixels=SCENE.size // 12))
    assert half.shape == (64, 96, 3)
    assert distance(half.repeat(2, 0).repeat(2, 1)) <= CLOSE


def test_grey_in_high_dynamic_range(tmp_path: Path) -> None:
    grey = (pq_curve(light_in(BT2020, GREY)) * 65535).round().astype(np.uint16)[..., 1]
    assert distance(np.asarray(read_picture(hdr_png(tmp_path / "a.png", grey, "gray16le"))), GREY) <= CLOSE


def ycc(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """BT.2020's Y, Cb and Cr, each from 0 to 1."""
    y = rgb @ (0.2627, 0.6780, 0.0593)
    return np.stack([y, (rgb[..., 2] - y) / 1.8814 + 0.5, (rgb[..., 0] - y) / 1.4746 + 0.5], -1)


def seen(samples: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The exact sRGB levels for Y, Cb and Cr in PQ; the light must be so dark that HDR conversion does not compress
    it."""
    y, cb, cr = np.moveaxis(samples, -1, 0)
    red, blue = y + 1.4746 * (cr - 0.5), y + 1.8814 * (cb - 0.5)
    rgb = np.stack([red, (y - 0.2627 * red - 0.0593 * blue) / 0.6780, blue], -1).clip(0, 1)
    p = rgb ** (1 / 78.84375)
    light = ((p - 0.8359375).clip(0) / (18.8515625 - 18.6875 * p)) ** (1 / 0.1593017578125) * 10_000 / 203
    return levels(srgb_curve(light @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(BT2020)).T))


def test_eight_bits_of_pq_are_read_as_well_as_they_are_stored(tmp_path: Path) -> None:
    """Rounding PQ's Y, Cb and Cr to 8 bits changes a patch by more than CLOSE. Reading the file adds at most CLOSE to
    this difference."""
    exact = ycc(pq_curve(light_in(BT2020)))
    assert distance(seen(exact)) <= 1
    avif = hdr_avif(tmp_path / "a.avif", SCENE, "yuv444p")
    for data, given, steps in ((hdr_heic(PQ_8), ycc(PQ_8 / 255), (255, 255, 255)), (avif, exact, (219, 224, 224))):
        stored = seen(((given - (0, 0.5, 0.5)) * steps).round() / steps + (0, 0.5, 0.5))
        assert CLOSE < distance(stored) <= 6
        assert distance(np.asarray(read_picture(data)), stored) <= CLOSE


def test_an_avif_of_tiles(tmp_path: Path) -> None:
    data = tiled(hdr_avif(tmp_path / "a.avif", SCENE), 2, 2, 380, 250)
    whole = np.asarray(read_picture(data))
    assert whole.shape == (250, 380, 3)
    assert distance(whole[:128, :192]) <= CLOSE
    assert distance(np.pad(whole[128:, 192:], ((0, 6), (0, 4), (0, 0)))) <= CLOSE


def test_turned_pictures(tmp_path: Path) -> None:
    avif = tiled(hdr_avif(tmp_path / "a.avif", SCENE), 1, 2, 384, 128, quarters=1)
    left = np.asarray(read_picture(avif))
    assert left.shape == (384, 192 - 64, 3)
    assert distance(np.rot90(left, -1)[:, :192]) <= CLOSE
    exif = Image.Exif()
    exif[0x0112] = 6
    right = np.asarray(read_picture(hdr_heic(PQ_16, exif=exif.tobytes())))
    assert distance(np.rot90(right)) <= CLOSE


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    hole, expected = OPAQUE.copy(), SCENE.copy()
    hole[96:, :32], expected[96:, :32] = 0, 255
    layers = np.dstack([PQ_16, hole])
    avif = hdr_avif_with_alpha(tmp_path / "a.avif", np.dstack([SCENE, (hole >> 8).astype(np.uint8)]))
    for data in (avif, hdr_heic(layers), hdr_png(tmp_path / "a.png", layers, "rgba64le")):
        assert distance(np.asarray(read_picture(data)), expected) <= CLOSE


def test_fifty_megapixels_take_no_more_memory_than_the_inspector_has(tmp_path: Path) -> None:
    scene = np.tile(SCENE.repeat(4, 0).repeat(4, 1), (4, 3, 1))[:2048, :2112]
    data = tiled(hdr_avif(tmp_path / "a.avif", scene, "yuv420p10le"), 3, 4, 8448, 6144)
    program = (
        "import sys; from pipelines import child; from server.media import inspector; "
        "child.confine(inspector.MEMORY_BYTES); "
        "from pipelines.video.picture import read_picture; image = read_picture(sys.stdin.buffer.read()); "
        "assert image.size == (4224, 3072) and 'numpy' not in sys.modules; "
        "sys.stdout.buffer.write(image.crop((384, 256, 768, 512)).reduce(2).tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert distance(np.frombuffer(done.stdout, np.uint8).reshape(SCENE.shape)) <= CLOSE


@pytest.mark.parametrize("kind", ["AVIF, PQ", "HEIC, PQ", "PNG, PQ, 16 bits"])
def test_damaged_ones_are_refused(kind: str, tmp_path: Path) -> None:
    data = STILLS[kind](tmp_path)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(MediaUnreadable) as e:
            read_picture(data[: int(len(data) * share)])
        assert e.value.code in ("image_load_error", "unsupported_image_format")


def test_one_that_ffmpeg_cannot_decode_is_read_in_eight_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hdr_avif(tmp_path / "a.avif", SCENE)
    monkeypatch.setattr("pipelines.video.deep.guarded_input", lambda *_: ["-i", "file:none"])
    assert CLOSE < distance(np.asarray(read_picture(data))) <= 12
