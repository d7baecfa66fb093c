"""HDR images as AVIF, HEIC and PNG, with more than the 8 bits that Pillow can write."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pillow_heif import from_bytes

from tests.rigs.scenes import encode, with_chunk

CODES = {"smpte2084": 16, "arib-std-b67": 18}  # codes of the transfer curves in H.273
_AOM = ("-c:v", "libaom-av1", "-aom-params", "lossless=1", "-cpu-used", "8", "-still-picture", "1")


def hdr(to: str, pixels: str, curve: str = "smpte2084") -> tuple[str, str]:
    """ffmpeg filters from sRGB to BT.2020. `to` has the matrix and the range as zscale options."""
    source = "setparams=colorspace=gbr:color_primaries=bt709:color_trc=iec61966-2-1:range=pc"
    return "-vf", f"{source},zscale=p=2020:t={curve}:npl=203:{to},format={pixels}"


def hdr_avif(
    path: Path,
    frame: NDArray[np.uint8],
    pixels: str = "yuv444p10le",
    to: str = "m=2020_ncl:r=tv",
    curve: str = "smpte2084",
) -> bytes:
    return encode(path, frame, *hdr(to, pixels, curve), *_AOM, frames=1).read_bytes()


def hdr_avif_with_alpha(path: Path, layers: NDArray[np.uint8]) -> bytes:
    """Encodes an AVIF with alpha. `layers` are RGBA pixels."""
    _, filters = hdr("m=2020_ncl:r=tv", "yuv444p10le")
    graph = f"[0:v]split[x][y];[x]format=gbrp,{filters}[a];[y]alphaextract,format=gray10le[b]"
    arguments = ("-filter_complex", graph, "-map", "[a]", "-map", "[b]", *_AOM)
    return encode(path, layers, *arguments, frames=1, pixels="rgba").read_bytes()


def hdr_levels(path: Path, frame: NDArray[np.uint8], curve: str = "smpte2084") -> NDArray[np.uint16]:
    """The frame's HDR levels in 16 bits."""
    filters = hdr("m=gbr:r=pc", "gbrp16le", curve)
    data = encode(path, frame, *filters, "-pix_fmt", "rgb48le", "-f", "rawvideo", frames=1).read_bytes()
    return np.frombuffer(data, np.uint16).reshape(frame.shape)


def hdr_heic(pixels: NDArray[np.uint16] | NDArray[np.uint8], transfer: int = 16, **options: Any) -> bytes:
    buffer = io.BytesIO()
    mode = ("RGB" if pixels.shape[2] == 3 else "RGBA") + (";16" if pixels.dtype == np.uint16 else "")
    image = from_bytes(mode=mode, size=(pixels.shape[1], pixels.shape[0]), data=np.ascontiguousarray(pixels).tobytes())
    codes = {"color_primaries": 9, "transfer_characteristics": transfer, "matrix_coefficients": 9}
    image.save(buffer, **{"quality": -1, "chroma": "444", "save_nclx_profile": True, **codes, **options})
    return buffer.getvalue()


def hdr_png(path: Path, pixels: NDArray[np.uint16], layout: str = "rgb48le", transfer: int = 16) -> bytes:
    data = encode(path, pixels, "-frames:v", "1", "-update", "1", frames=1, pixels=layout).read_bytes()
    return with_chunk(data, b"cICP", bytes([9, transfer, 0, 1]))


def tiled(tile: bytes, rows: int, columns: int, width: int, height: int, quarters: int = 0) -> bytes:
    """An AVIF grid that repeats a tile. The grid is cropped to `width` and `height`, and rotated left by `quarters` of
    a turn."""
    payload, count = _found(tile, b"mdat")[8:], rows * columns
    layout = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, width, height)
    size = _full(b"ispe", struct.pack(">2I", width, height))
    kept = [_found(tile, name) for name in (b"av1C", b"ispe", b"pixi", b"colr")]
    items = range(2, count + 2)
    of_grid = struct.pack(">HB4B", 1, 4, 5, 3, 4, 0x86)
    of_tiles = b"".join(struct.pack(">HB4B", item, 4, 0x81, 2, 3, 4) for item in items)
    about = [
        _full(b"hdlr", struct.pack(">I4s12xx", 0, b"pict")),
        _full(b"pitm", struct.pack(">H", 1)),
        _full(b"iinf", struct.pack(">H", count + 1), _item(1, b"grid"), *(_item(item, b"av01") for item in items)),
        _full(b"iref", _box(b"dimg", struct.pack(f">{count + 2}H", 1, count, *items))),
        _box(
            b"iprp",
            _box(b"ipco", *kept, size, _box(b"irot", bytes([quarters]))),
            _full(b"ipma", struct.pack(">I", count + 1), of_grid, of_tiles),
        ),
    ]
    head = _box(b"ftyp", b"avif\0\0\0\0avifmif1miafMA1A")
    at = len(head) + len(_meta(about, 0, layout, payload, count)) + 8
    return head + _meta(about, at, layout, payload, count) + _box(b"mdat", layout, payload)


def _meta(about: list[bytes], at: int, layout: bytes, payload: bytes, count: int) -> bytes:
    grid = struct.pack(">3H2I", 1, 0, 1, at, len(layout))
    tiles = [struct.pack(">3H2I", item, 0, 1, at + len(layout), len(payload)) for item in range(2, count + 2)]
    return _full(b"meta", *about, _full(b"iloc", b"\x44\0", struct.pack(">H", count + 1), grid, *tiles))


def _item(number: int, kind: bytes) -> bytes:
    return _box(b"infe", struct.pack(">I2H4sx", 0x02000000 + (kind != b"grid"), number, 0, kind))


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full(name: bytes, *content: bytes) -> bytes:
    return _box(name, bytes(4), *content)


def _found(data: bytes, name: bytes) -> bytes:
    at = data.index(name) - 4
    return data[at : at + int.from_bytes(data[at : at + 4], "big")]
