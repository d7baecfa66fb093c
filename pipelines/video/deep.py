"""Convert images in high dynamic range (PQ, HLG) to 8-bit sRGB, with the tone mapping of clips.

One level of 8-bit PQ can be six levels of sRGB, and Pillow decodes to 8 bits. So libheif decodes HEIC to the depth of
the file, and ffmpeg decodes AVIF and deep PNG. Pillow decodes the other images. Another ffmpeg process converts the
decoded image in strips, as if the strips were frames of a clip, and so needs little memory. Knows: decoders, ffmpeg's
arguments, layouts of samples. Does not know: how a file marks high dynamic range.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from PIL import Image

from pipelines.video import stream
from pipelines.video.colour import PRIMARIES, Codes
from pipelines.video.process import MediaUnreadable, ffmpeg, guarded_input

SECONDS = 40.0  # time limit of each ffmpeg
_STRIP = 2**20  # pixels
_HEAD = 2**16  # bytes; the boxes before the samples lie within these bytes
# Pillow's mode -> layout for 8 bits, layout for more bits
_LAYOUTS = {"RGB": ("rgb24", "rgb48le"), "RGBA": ("rgba", "rgba64le")}
_PIXEL = {"rgb24": 3, "rgba": 4, "gray16le": 2, "rgb48le": 6, "rgba64le": 8}  # bytes
_GRID = re.compile(rb"infe[\2\3].{7,9}grid", re.DOTALL)  # an AVIF whose image is made of tiles
_TURNS = re.compile(rb"(\0\0\0\x09)(irot|imir)")  # an AVIF's rotation; ffmpeg rotates tiles even with -noautorotate
_EIGHT_BITS = b"pixi\0\0\0\0\3\x08"  # in an AVIF: each of the three colour channels has 8 bits
_PREMULTIPLIED = b"\0\0\0\x0eprem"  # an AVIF's colours are multiplied by its transparency
_MATRICES = (0, 1, 4, 5, 6, 7, 9)  # numbers of H.273; swscale does not know the others
_QUIET = ("-v", "error", "-nostdin")
# Address space is limited. Each thread takes some address space, and more if the thread has its own heap.
_ALONE = ("-threads", "1", "-filter_threads", "1", "-filter_complex_threads", "1")
_ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class _Samples:
    """`strips` have `_rows` rows each, without padding. `layout` is ffmpeg's name. `bits`: the highest level of a
    sample is 2**`bits` - 1."""

    strips: Iterator[bytes | memoryview]
    size: tuple[int, int]
    layout: str
    bits: int

    @property
    def row(self) -> int:
        """Bytes."""
        return self.size[0] * _PIXEL[self.layout]

    @property
    def mode(self) -> str:
        """The mode of the resulting Pillow image."""
        return "RGBA" if "rgba" in self.layout else "RGB"


def read(opened: Callable[[], Image.Image], data: bytes, codes: Codes, shrink: int) -> Image.Image:
    """The image as RGB or RGBA, at 1 / `shrink` of its size and not rotated. `opened` opens `data` without decoding
    pixels.

    Raises MediaUnreadable if decoding takes too long, and any exception of the image's decoder if the image is damaged.
    """
    image = opened()
    info = image.info
    if image.format == "HEIF":
        seen = _by_libheif(data, codes, shrink)
    elif _is_deep(image, data, codes):
        image.load()  # raises for a damaged one
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        kind, size = image.format, image.size
        del image  # and its decoder's memory
        seen = _by_ffmpeg(data, kind == "AVIF", size, codes, shrink)
        if seen is not None and alpha is not None:
            seen.putalpha(alpha.reduce(shrink) if shrink > 1 else alpha)
    else:
        seen = None
    seen = seen or _by_pillow(opened(), codes, shrink)
    seen.info.update((name, value) for name, value in info.items() if name != "transparency")
    return seen


def _is_deep(image: Image.Image, data: bytes, codes: Codes) -> bool:
    """Whether ffmpeg reads the image more precisely than Pillow."""
    if image.format == "PNG":
        return data[24] == 16 and image.mode != "I;16"
    head = data[:_HEAD]
    plain = codes.matrix == 0 and _EIGHT_BITS in head
    return image.format == "AVIF" and codes.matrix in _MATRICES and not plain and _PREMULTIPLIED not in head


def _by_libheif(data: bytes, codes: Codes, shrink: int) -> Image.Image | None:
    """Decode with libheif. Returns None if the image is damaged or needs too much memory at its full depth."""
    from pillow_heif import open_heif  # libraries of 25 MB that few processes need

    try:
        found = open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        whole = memoryview(found.data).cast("B")  # this decodes the image and may change its size
    except Exception:  # as Pillow's decoders
        return None
    mode, _, depth = found.mode.partition(";")
    if mode not in _LAYOUTS:
        return None
    samples = _Samples(iter(()), found.size, _LAYOUTS[mode][bool(depth)], int(depth or 8))
    if found.stride != samples.row:
        return None
    step = samples.row * _rows(found.size)
    strips = (whole[at : at + step] for at in range(0, samples.row * found.size[1], step))
    return _mapped(replace(samples, strips=strips), codes, shrink)


def _by_pillow(image: Image.Image, codes: Codes, shrink: int) -> Image.Image:
    image.load()
    mode = "RGBA" if image.has_transparency_data else "I;16" if image.mode == "I;16" else "RGB"
    plain: Image.Image = image if image.mode == mode else image.convert(mode)
    (width, height), rows = plain.size, _rows(plain.size)
    strips = (plain.crop((0, top, width, min(top + rows, height))).tobytes() for top in range(0, height, rows))
    layout, bits = ("gray16le", 16) if mode == "I;16" else (_LAYOUTS[mode][0], 8)
    seen = _mapped(_Samples(strips, plain.size, layout, bits), codes, shrink)
    if seen is None:
        raise MediaUnreadable("image_load_error", "the image's colours cannot be converted")
    return seen


def _by_ffmpeg(data: bytes, avif: bool, size: tuple[int, int], codes: Codes, shrink: int) -> Image.Image | None:
    """Without transparency; None where it cannot."""
    source, tags = "[0:v:0]", ""
    if avif:
        source = "[0:g:0]" if _GRID.search(data, 0, _HEAD) else source
        tags = f"setparams=colorspace={codes.matrix}:range={'pc' if codes.full else 'tv'},"
    graph = f"{source}{tags}scale=flags={stream.SWSCALE},format=rgb48le"
    limits = ("-max_pixels", str(stream.padded(size[0] * size[1])))
    output = ("-filter_complex", graph, "-frames:v", "1", "-c:v", "rawvideo", "-f", "rawvideo", "pipe:1")
    with tempfile.NamedTemporaryFile() as file:
        file.write(_TURNS.sub(rb"\1free", data[:_HEAD]) + data[_HEAD:])
        file.flush()
        command = [ffmpeg(), *_QUIET, *_ALONE, *limits, *guarded_input(Path(file.name), "mov,png_pipe"), *output]
        with _started(command) as process:
            samples = _Samples(iter(()), size, "rgb48le", 16)
            step = samples.row * _rows(size)
            strips = iter(lambda: _pipe(process.stdout).read(step), b"")
            seen = _mapped(replace(samples, strips=strips), codes, shrink)
            return seen if seen and process.wait() == 0 else None


def _mapped(samples: _Samples, codes: Codes, shrink: int) -> Image.Image | None:
    """The image in sRGB; None if the number of samples does not match `size`."""
    (width, height), rows, mode = samples.size, _rows(samples.size), samples.mode
    shape = ("-f", "rawvideo", "-pixel_format", samples.layout, "-video_size", f"{width}x{rows}", "-i", "pipe:0")
    output = ("-vf", _filters(samples, codes), "-pix_fmt", _LAYOUTS[mode][0], "-f", "rawvideo", "pipe:1")
    seen = Image.new(mode, (-(-width // shrink), -(-height // shrink)))
    fed: list[int] = []
    with _started([ffmpeg(), *_QUIET, *_ALONE, "-protocol_whitelist", "pipe", *shape, *output]) as process:

        def feed() -> None:
            with suppress(BrokenPipeError, ValueError), _pipe(process.stdin) as pipe:
                for strip in samples.strips:
                    fed.append(len(strip))
                    pipe.write(strip)
                pipe.write(bytes(-sum(fed) % (samples.row * rows)))  # fills up the last strip

        feeder = threading.Thread(target=feed)
        feeder.start()
        with _pipe(process.stdout) as pipe:
            for top in range(0, height, rows):
                part = pipe.read(width * rows * len(mode))
                if len(part) < width * rows * len(mode):
                    break
                strip = Image.frombytes(mode, (width, rows), part).crop((0, 0, width, min(rows, height - top)))
                seen.paste(strip.reduce(shrink) if shrink > 1 else strip, (0, top // shrink))
        feeder.join()
        done = process.wait() == 0
    return seen if done and sum(fed) == samples.row * height else None


def _filters(samples: _Samples, codes: Codes) -> str:
    planes = f"gbr{'a' if samples.mode == 'RGBA' else ''}p"
    whole = planes if samples.bits == 8 else f"{planes}16le"
    primaries = codes.primaries if codes.primaries in PRIMARIES else 9  # as in clips: BT.2020
    tags = f"setparams=colorspace=gbr:range=pc:color_primaries={primaries}:color_trc={codes.transfer}"
    source = f"format={whole},{tags},zscale=min=gbr"
    if samples.bits not in (8, 16):
        level = f"val*{65535 / (2**samples.bits - 1)}+0.5"
        source = f"lutrgb=r={level}:g={level}:b={level}:a={level},{source}"
    return stream.tone_mapped(source, planes, "iec61966-2-1")


def _rows(size: tuple[int, int]) -> int:
    """The number of rows in a strip, which is a multiple of every possible `shrink`."""
    return 8 * max(1, min(_STRIP // size[0] // 8, -(-size[1] // 8)))


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start ffmpeg, and kill it at the end of the block. Raises MediaUnreadable if ffmpeg took too long."""
    late = threading.Event()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **_ONE_HEAP},
    )

    def end() -> None:
        late.set()
        process.kill()

    watchdog = threading.Timer(SECONDS, end)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                _pipe(pipe).close()
    if late.is_set():
        raise MediaUnreadable("image_load_error", "the image takes too long to decode")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
