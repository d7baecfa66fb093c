"""The same scene in every supported format and colour space is read to within 3 of 255 levels of one reference."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from pillow_heif import HeifFile, from_pillow

from pipelines.video import read_picture, read_video
from pipelines.video.probe import check_clip
from tests.rigs.scenes import (
    ADOBE,
    BT2020,
    CLOSE,
    P3,
    SCENE,
    WHITE,
    distance,
    encode,
    icc,
    levels,
    light_in,
    linear,
    pq_curve,
    profile,
    saved,
    srgb_curve,
    with_chunk,
)

P3_LEVELS = levels(srgb_curve(light_in(P3)))
ADOBE_LEVELS = levels(light_in(ADOBE).clip(0, 1) ** (256 / 563))
PQ_LEVELS = levels(pq_curve(light_in(BT2020)))
P3_ICC, ADOBE_ICC = icc(P3, None), icc(ADOBE, 563 / 256)
BIG = {"quality": 100, "subsampling": 0}


def heic(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    made: HeifFile = from_pillow(Image.fromarray(pixels))
    made.save(buffer, quality=-1, chroma=444, **options)
    return buffer.getvalue()


def chromaticities(colours: dict[str, tuple[float, float]]) -> bytes:
    flat = [v for xy in (WHITE, colours["r"], colours["g"], colours["b"]) for v in xy]
    return b"".join(round(v * 100_000).to_bytes(4, "big") for v in flat)


def lab() -> Image.Image:
    change = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(Image.fromarray(SCENE), change)


def cmyk() -> Image.Image:
    planes = 255 - SCENE
    return Image.merge("CMYK", [Image.fromarray(planes[..., n]) for n in range(3)] + [Image.new("L", (192, 128))])


PICTURES: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: saved(SCENE, "PNG"),
    "PNG, palette": lambda: saved(Image.fromarray(SCENE).quantize(64), "PNG"),
    "PNG, gAMA 1.0": lambda: with_chunk(saved(levels(linear()), "PNG"), b"gAMA", (100_000).to_bytes(4, "big")),
    "PNG, gAMA and cHRM of Adobe RGB": lambda: with_chunk(
        with_chunk(saved(ADOBE_LEVELS, "PNG"), b"gAMA", (45_470).to_bytes(4, "big")), b"cHRM", chromaticities(ADOBE)
    ),
    "PNG, cICP Display P3": lambda: with_chunk(saved(P3_LEVELS, "PNG"), b"cICP", bytes([12, 13, 0, 1])),
    "PNG, cICP PQ": lambda: with_chunk(saved(PQ_LEVELS, "PNG"), b"cICP", bytes([9, 16, 0, 1])),
    "PNG, sRGB beside an odd gAMA": lambda: with_chunk(
        with_chunk(saved(SCENE, "PNG"), b"gAMA", (100_000).to_bytes(4, "big")), b"sRGB", b"\0"
    ),
    "PNG, Display P3": lambda: saved(P3_LEVELS, "PNG", icc_profile=P3_ICC),
    "PNG, Adobe RGB": lambda: saved(ADOBE_LEVELS, "PNG", icc_profile=ADOBE_ICC),
    "JPEG": lambda: saved(SCENE, "JPEG", **BIG),
    "JPEG, 4:2:0": lambda: saved(SCENE, "JPEG", quality=95),
    "JPEG, progressive": lambda: saved(SCENE, "JPEG", progressive=True, **BIG),
    "JPEG, Display P3": lambda: saved(P3_LEVELS, "JPEG", icc_profile=P3_ICC, **BIG),
    "JPEG, Adobe RGB": lambda: saved(ADOBE_LEVELS, "JPEG", icc_profile=ADOBE_ICC, **BIG),
    "JPEG, Adobe RGB by its tags": lambda: saved(ADOBE_LEVELS, "JPEG", exif=adobe_tags(), **BIG),
    "JPEG, CMYK": lambda: saved(cmyk(), "JPEG", **BIG),
    "JPEG, a profile for something else": lambda: saved(SCENE, "JPEG", icc_profile=lab_profile(), **BIG),
    "WebP": lambda: saved(SCENE, "WEBP", lossless=True),
    "WebP, animated": lambda: saved(SCENE, "WEBP", lossless=True, save_all=True, append_images=[black()]),
    "WebP, Display P3": lambda: saved(P3_LEVELS, "WEBP", lossless=True, icc_profile=P3_ICC),
    "GIF": lambda: saved(Image.fromarray(SCENE).quantize(64), "GIF"),
    "APNG": lambda: saved(SCENE, "PNG", save_all=True, append_images=[black()]),
    "AVIF": lambda: saved(SCENE, "AVIF", quality=100, subsampling="4:4:4"),
    "AVIF, Display P3": lambda: saved(P3_LEVELS, "AVIF", quality=100, subsampling="4:4:4", icc_profile=P3_ICC),
    "HEIC": lambda: heic(SCENE),
    "HEIC, Display P3": lambda: heic(P3_LEVELS, icc_profile=P3_ICC),
    "BMP": lambda: saved(SCENE, "BMP"),
    "TIFF": lambda: saved(SCENE, "TIFF"),
    "TIFF, LZW": lambda: saved(SCENE, "TIFF", compression="tiff_lzw"),
    "TIFF, pages": lambda: saved(SCENE, "TIFF", save_all=True, append_images=[black()]),
    "TIFF, Adobe RGB": lambda: saved(ADOBE_LEVELS, "TIFF", icc_profile=ADOBE_ICC),
    "TIFF, CMYK": lambda: saved(cmyk(), "TIFF"),
    "TIFF, Lab": lambda: saved(lab(), "TIFF"),
    "MPO": lambda: saved(SCENE, "MPO", save_all=True, append_images=[black()], **BIG),
    "JPEG 2000": lambda: saved(SCENE, "JPEG2000"),
}  # fmt: skip


def black() -> Image.Image:
    return Image.new("RGB", (192, 128))


def adobe_tags() -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    return exif


def lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str) -> None:
    image = read_picture(PICTURES[name]())
    assert image.mode == "RGB"
    assert distance(np.asarray(image)) <= CLOSE


def test_what_is_srgb_keeps_every_pixel() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for extra in (
        {},
        {"icc_profile": srgb},
        {"icc_profile": icc({"r": (0.64, 0.33), "g": (0.3, 0.6), "b": (0.15, 0.06)}, None)},
    ):
        assert np.array_equal(np.asarray(read_picture(saved(noise, "PNG", **extra))), noise)
    usual = with_chunk(saved(noise, "PNG"), b"gAMA", (45_455).to_bytes(4, "big"))
    assert np.array_equal(np.asarray(read_picture(usual)), noise)


GREY = np.repeat(np.arange(0, 256, 4, dtype=np.uint8), 4).reshape(16, 16)


def grey_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    white = b"XYZ \0\0\0\0" + b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1, 0.8249))
    return profile(b"GRAY", {b"wtpt": white, b"kTRC": curve})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_profiles(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    given = levels(linear(GREY) ** (1 / 1.8))
    read = np.asarray(read_picture(saved(given, kind, icc_profile=grey_profile(1.8), **options))).astype(int)
    assert np.abs(read - GREY[..., None])[4:].max() <= CLOSE
    if kind != "JPEG":
        opaque = Image.merge("LA", [Image.fromarray(given), Image.new("L", (16, 16), 255)])
        assert np.array_equal(read, np.asarray(read_picture(saved(opaque, kind, icc_profile=grey_profile(1.8)))))


CLIPS: dict[str, tuple[str, tuple[str, ...]]] = {}


def clip(name: str, suffix: str, *arguments: str) -> None:
    CLIPS[name] = suffix, arguments


X264 = ("-c:v", "libx264", "-qp", "4", "-preset", "ultrafast")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "lossless=1:log-level=0")


def tagged(matrix: str, rest: str, levels: str = "tv", pixels: str = "yuv420p") -> tuple[str, str]:
    """ffmpeg filters that convert with this matrix and tag the clip accordingly. `rest` is the name of both the
    primaries and the curve."""
    tags = f"setparams=colorspace={matrix}:color_primaries={rest}:color_trc={rest}:range={levels}"
    exact = "flags=accurate_rnd+full_chroma_int"
    return "-vf", f"scale=out_color_matrix={matrix}:out_range={levels}:{exact},format={pixels},{tags}"


def converted(to: str, pixels: str = "yuv420p10le") -> tuple[str, str]:
    """ffmpeg filters that convert to another colour space with zimg, which also tags the clip."""
    return (
        "-vf",
        f"setparams=colorspace=gbr:color_primaries=bt709:color_trc=bt709,zscale={to}:npl=203:r=tv,format={pixels}",
    )


for kind, suffix, codec in (
    ("MP4, H.264", "mp4", X264),
    ("MOV, H.264", "mov", X264),
    ("MKV, H.264", "mkv", X264),
    ("TS, H.264", "ts", X264),
    ("FLV, H.264", "flv", X264),
    ("MP4, HEVC", "mp4", X265),
    ("MP4, AV1", "mp4", ("-c:v", "libsvtav1", "-crf", "3", "-svtav1-params", "preset=10")),
    ("WebM, VP9", "webm", ("-c:v", "libvpx-vp9", "-lossless", "1", "-cpu-used", "8")),
    ("WebM, VP8", "webm", ("-c:v", "libvpx", "-b:v", "20M", "-qmax", "4", "-cpu-used", "8")),
    ("3GP, MPEG-4", "3gp", ("-c:v", "mpeg4", "-q:v", "1")),
    ("AVI, MPEG-4", "avi", ("-c:v", "mpeg4", "-q:v", "1")),
    ("FLV, Sorenson", "flv", ("-c:v", "flv", "-q:v", "1")),
    ("WMV", "wmv", ("-c:v", "wmv2", "-q:v", "1")),
    ("MPEG", "mpg", ("-r", "24", "-c:v", "mpeg2video", "-q:v", "1")),
    ("TS, MPEG-2", "ts", ("-r", "24", "-c:v", "mpeg2video", "-q:v", "1")),
    ("OGV", "ogv", ("-c:v", "libtheora", "-q:v", "10")),
    ("IVF", "ivf", ("-c:v", "libvpx", "-b:v", "20M", "-qmax", "4")),
    ("MKV, FFV1", "mkv", ("-c:v", "ffv1")),
    ("AVI, Ut Video", "avi", ("-c:v", "utvideo")),
    ("AVI, uncompressed", "avi", ("-c:v", "rawvideo")),
):
    clip(kind, suffix, *tagged("smpte170m", "unknown"), *codec)
clip("AVI, MJPEG", "avi", "-c:v", "mjpeg", "-q:v", "1")
clip("MOV, ProRes", "mov", *tagged("bt709", "bt709", pixels="yuv422p10le"), "-c:v", "prores_ks", "-profile:v", "3")
clip(
    "MOV, DNxHR",
    "mov",
    *tagged("bt709", "bt709", pixels="yuv422p"),
    "-s",
    "384x256",
    "-c:v",
    "dnxhd",
    "-profile:v",
    "dnxhr_hq",
)
clip(
    "MXF, DNxHR",
    "mxf",
    *tagged("bt709", "bt709", pixels="yuv422p"),
    "-r",
    "24",
    "-s",
    "384x256",
    "-c:v",
    "dnxhd",
    "-profile:v",
    "dnxhr_hq",
)
clip("MOV, Animation", "mov", "-c:v", "qtrle")
clip("MOV, PNG", "mov", "-c:v", "png")
clip("GIF", "gif", "-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none")
clip("APNG", "apng", "-c:v", "apng")
clip("WebP", "webp", "-c:v", "libwebp_anim", "-lossless", "1")
clip("BT.709", "mp4", *tagged("bt709", "bt709"), *X264)
clip("BT.709, full range", "mp4", *tagged("bt709", "bt709", "pc"), *X264)
clip("BT.709, 4:4:4", "mp4", *tagged("bt709", "bt709", pixels="yuv444p"), *X264)
clip("BT.709, 4:2:2 of 10 bits", "mp4", *tagged("bt709", "bt709", pixels="yuv422p10le"), *X264)
clip("BT.601 of PAL by its matrix", "mp4", *tagged("bt470bg", "unknown"), *X264)
clip("BT.601 of NTSC", "mp4", *converted("m=170m:p=170m:t=601", "yuv420p"), *X264)
clip("BT.601 of PAL", "mp4", *converted("m=470bg:p=bt470bg:t=601", "yuv420p"), *X264)
clip("BT.2020", "mp4", *converted("m=2020_ncl:p=2020:t=2020_10"), *X265)
clip("Display P3", "mp4", *converted("m=709:p=smpte432:t=709"), *X265)
clip("PQ", "mp4", *converted("m=2020_ncl:p=2020:t=smpte2084"), *X265)
clip("PQ, 4:4:4 of 12 bits", "mp4", *converted("m=2020_ncl:p=2020:t=smpte2084", "yuv444p12le"), *X265)
clip(
    "PQ, without primaries",
    "mp4",
    "-vf",
    f"{converted('m=2020_ncl:p=2020:t=smpte2084')[1]},setparams=color_primaries=unknown:colorspace=unknown",
    *X265,
)
clip("HLG", "mp4", *converted("m=2020_ncl:p=2020:t=arib-std-b67"), *X265)
clip(
    "HLG in ProRes",
    "mov",
    *converted("m=2020_ncl:p=2020:t=arib-std-b67", "yuv422p10le"),
    "-c:v",
    "prores_ks",
    "-profile:v",
    "3",
)
clip("HLG, full range", "mp4", *converted("m=2020_ncl:p=2020:t=arib-std-b67:r=pc"), *X265)
clip("PQ in RGB", "mkv", *converted("m=gbr:p=2020:t=smpte2084:r=pc", "gbrp10le"), "-c:v", "ffv1")
clip("PQ, ICtCp", "mp4", *converted("m=ictcp:p=2020:t=smpte2084", "yuv444p10le"), *X265)
clip("BT.2020, constant luminance", "mp4", *converted("m=2020_cl:p=2020:t=2020_10", "yuv444p10le"), *X265)
clip("YCgCo", "mp4", *converted("m=ycgco", "yuv444p"), *X264)
clip("H.264 in RGB", "mp4", "-c:v", "libx264rgb", "-crf", "1")


@pytest.mark.parametrize("name", CLIPS)
def test_clips(name: str, tmp_path: Path) -> None:
    suffix, arguments = CLIPS[name]
    path = encode(tmp_path / f"clip.{suffix}", SCENE, *arguments)
    check_clip(path)
    read = read_video(path, max_frames=99, max_pixels=10**6, max_seconds=9)
    frame = read.frames[len(read.frames) // 2]
    if "DNxHR" in name:
        frame = frame[::2, ::2]
    assert distance(frame) <= CLOSE
    assert (read.note is not None) == name.startswith(("PQ", "HLG"))


def test_clips_with_the_curve_of_srgb(tmp_path: Path) -> None:
    """Screen recordings have wide primaries and sRGB's curve instead of BT.709's curve."""
    for pixels, primaries, matrix in (
        (P3_LEVELS, "smpte432", "bt709"),
        (levels(srgb_curve(light_in(BT2020))), "bt2020", "bt2020nc"),
    ):
        convert = f"scale=out_color_matrix={matrix}:flags=accurate_rnd+full_chroma_int,format=yuv444p10le"
        tags = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc=iec61966-2-1"
        path = encode(tmp_path / f"{primaries}.mp4", pixels, "-vf", f"{convert},{tags}", *X265)
        assert distance(read_video(path, max_frames=9, max_pixels=10**6, max_seconds=9).frames[2]) <= CLOSE


def test_linear_light_in_a_clip(tmp_path: Path) -> None:
    light = (linear() * 65535).round().astype(np.uint16)
    tags = "setparams=colorspace=gbr:color_primaries=bt709:color_trc=linear:range=pc"
    path = encode(tmp_path / "a.mkv", light, "-vf", f"format=gbrp16le,{tags}", "-c:v", "ffv1", pixels="rgb48le")
    assert distance(read_video(path, max_frames=9, max_pixels=10**6, max_seconds=9).frames[2]) <= CLOSE


@pytest.mark.parametrize("primaries", ["smpte431", "film"])
def test_another_white_is_adapted_in_every_row(primaries: str, tmp_path: Path) -> None:
    """ffmpeg's zscale adapts the white point only in the first of its threads."""
    to = converted(f"m=709:p={primaries}:t=709", "yuv444p10le")
    path = encode(tmp_path / "a.mkv", SCENE, *to, "-filter_threads", "1", "-c:v", "ffv1")
    check_clip(path)
    assert distance(read_video(path, max_frames=9, max_pixels=10**6, max_seconds=9).frames[2]) <= CLOSE


def test_odd_sides_in_other_colours(tmp_path: Path) -> None:
    vp9 = ("-c:v", "libvpx-vp9", "-lossless", "1", "-cpu-used", "8")
    for to in ("m=2020_ncl:p=2020:t=smpte2084", "m=170m:p=170m:t=601"):
        whole, half = converted(to, "yuv444p10le"), "format=yuv420p10le"
        path = encode(tmp_path / "a.webm", SCENE[:-1, :-1], whole[0], f"{whole[1]},{half}", *vp9)
        check_clip(path)
        read = read_video(path, max_frames=9, max_pixels=10**6, max_seconds=9).frames[2]
        assert distance(np.pad(read, ((0, 1), (0, 1), (0, 0)))) <= CLOSE


def test_bright_light_is_compressed_not_cut_off(tmp_path: Path) -> None:
    """Light of up to 80 % of the reference white does not change, 1,000 cd/m2 becomes white, and the levels between
    remain distinct."""
    nits = np.array([50, 100, 150, 203, 400, 600, 1000, 4000]).repeat(32)
    code = (pq_curve(nits / 203.0) * 65535).round().astype(np.uint16)
    frame = np.repeat(np.repeat(code[None, :, None], 64, 0), 3, 2)
    tags = "setparams=colorspace=gbr:color_primaries=bt2020:color_trc=smpte2084:range=pc"
    filters = f"{tags},zscale=m=2020_ncl:r=tv,format=yuv420p10le"
    path = encode(tmp_path / "a.mp4", frame, "-vf", filters, *X265, pixels="rgb48le")
    read = read_video(path, max_frames=9, max_pixels=10**6, max_seconds=9)
    grey = read.frames[2, 32, 16::32].astype(int)
    assert (np.abs(grey - grey[:, :1]) <= 1).all()
    seen = grey[:, 0].tolist()
    expected = [round(255 * (n / 203) ** (1 / 2.4)) for n in (50, 100, 150)]
    assert np.abs(np.array(seen[:3]) - expected).max() <= 1
    assert seen == sorted(seen) and len(set(seen[:7])) == 7 and seen[3] < 245 and seen[6] >= 253
    assert read.note is not None and read.note[:2] == ("PQ (HDR)", "sRGB")
