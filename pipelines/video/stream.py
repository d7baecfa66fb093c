"""Parse ffmpeg's description of a clip, and build the filters that give upright, opaque sRGB frames.

A clip of standard range is converted only if its primaries are not BT.709's or its light is linear. Code values of
BT.709 count as sRGB, as in players. High dynamic range is mapped to standard range: light stays unchanged up to 80 % of
the reference white (203 cd/m2, ITU-R BT.2408), and brighter light is compressed so that 1,000 cd/m2 becomes white.
Transparent pixels are blended with white.
"""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from pipelines import child
from pipelines.video import kinds
from pipelines.video.process import MediaUnreadable, ffmpeg, guarded_input

SOURCE_PIXELS = 16_000_000  # largest frame that is decoded: 5.3K
SECONDS = 30.0  # time limit for describing a clip
REFERENCE_WHITE, PEAK, KNEE = 203, 1000, 0.8  # cd/m2, cd/m2, share of the reference white
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}

_PADDED = 1_000_000  # pixels; decoders also count the parts of blocks that lie outside the frame
_VIDEO = re.compile(r"^  Stream #\S+: Video: (?P<codec>\w+)(?P<rest>(?!.*\(attached pic\)).*)$", re.MULTILINE)
_SOUND = re.compile(r"^  Stream #\S+: Audio: ", re.MULTILINE)
_PIXELS = re.compile(r", (?P<format>\w+)(?:\((?P<tags>[^)]*)\))?, (?P<width>\d+)x(?P<height>\d+)")
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)
_OUT_TIME = re.compile(r"^out_time_us=(-?\d+)", re.MULTILINE)
_ALPHA_MODE = re.compile(r"^ +alpha_mode +: 1", re.MULTILINE | re.IGNORECASE)
_ALPHA = re.compile(r"yuva|gbrap|rgba|bgra|argb|abgr|ayuv|vuya|ya\d|pal8")
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders ignore the transparency of these
_WIDE = ("bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020", "smpte431", "smpte432", "ebu3213")

_OTHER_WHITE = ("bt470m", "film", "smpte431")  # their white is not D65
_CURVES = ("iec61966-2-1", "linear")  # curves of standard range, other than BT.709's
_RARE = ("ycgco", "bt2020c", "ictcp", "chroma-derived-nc", "chroma-derived-c")  # matrices that swscale does not know
_EXACT = "accurate_rnd+full_chroma_int"  # without these flags, swscale's colours are up to two levels too dark
SWSCALE = f"bicubic+{_EXACT}"  # also for the filters that ffmpeg inserts

# Non-square pixels are made square, up to a factor of 4. ffmpeg by default rotates frames as the metadata says.
_SQUARE = f"scale=w='max(1,round(iw*clip(sar,1/4,4)))':h=ih:flags={SWSCALE},setsar=1"
_ON_WHITE = "format=rgba,split[a][b];[a]lutrgb=r=255:g=255:b=255:a=255[w];[w][b]overlay=format=rgb"


@dataclass(frozen=True)
class Stream:
    """`words`: ffmpeg's output. `width`, `height`: in the file, before rotation. `alpha`: frames may be transparent.
    `matrix`, `primaries`, `transfer`: ffmpeg's names, or "unknown" if the file has none."""

    words: str
    codec: str
    format: str
    matrix: str
    primaries: str
    transfer: str
    width: int
    height: int
    alpha: bool

    @property
    def decoder(self) -> list[str]:
        """Arguments for ffmpeg that come before the input."""
        return ["-c:v:0", _WITH_ALPHA[self.codec]] if self.alpha and self.codec in _WITH_ALPHA else []

    @property
    def note(self) -> tuple[str, str, str] | None:
        """A note on high dynamic range: asked, used, reason."""
        if self.transfer in HDR:
            why = f"the model knows no high dynamic range; light above {KNEE * REFERENCE_WHITE:.0f} cd/m2 is compressed"
            return f"{HDR[self.transfer]} (HDR)", "sRGB", why
        return None

    def filters(self, pixels: int, longest_side: int | None = None) -> str:
        """Filters for `-vf` that give upright, opaque frames with square pixels. A frame of more than `pixels` is
        scaled down to that number, and a frame with a longer side to `longest_side`."""
        fit, colour = _fit(pixels, longest_side), self._colour()
        white = [_ON_WHITE] if self.alpha else []
        steps = [fit, colour, *white] if colour else [*white, fit]
        if self.matrix in _RARE:
            steps.insert(0, "setparams=colorspace=bt709")  # so that swscale passes the frame on to zscale
        shrink = [] if longest_side is None else [_shrink(longest_side)]
        return ",".join([*steps, _SQUARE, fit, *shrink])

    def _colour(self) -> str:
        hdr = self.transfer in HDR
        if not hdr and self.primaries not in _WIDE and self.matrix not in _RARE and self.transfer != "linear":
            return ""
        primaries = self.primaries if self.primaries in ("bt709", *_WIDE) else "bt2020" if hdr else "bt709"
        curve = self.transfer if hdr or self.transfer in _CURVES else "bt709"
        tags = f"pin={primaries}:tin={curve}"
        if self.matrix in _RARE:
            tags += f":min={self.matrix}"
        elif self.matrix == "unknown" and not _is_rgb(self.format):
            tags += f":min={'bt2020nc' if hdr else 'smpte170m'}"
        planes = f"gbr{'a' if self.alpha else ''}p"
        whole = f"{planes}16le" if _is_rgb(self.format) else f"yuv{'a' if self.alpha else ''}444p16le"
        tags = f"format={whole},zscale={tags}"  # zscale refuses odd sides if colour has half the resolution
        if not hdr:
            own = "bt709" if curve == "bt709" else "iec61966-2-1"
            return f"{tags}:p=bt709:t={own}:m=gbr:r=full,format={planes}"
        return tone_mapped(f"{tags}:p={primaries}", planes, "bt709")  # names the primaries, because the file does not


def tone_mapped(source: str, planes: str, curve: str) -> str:
    """Filters for high dynamic range -> primaries of BT.709 in 8 bits. `source`: a zscale filter that names the input's
    colours."""
    linear = f"{source}:t=linear:npl={REFERENCE_WHITE}:m=gbr:r=full,format={planes}f32le"
    tone = f"tonemap=mobius:param={KNEE}:peak={PEAK / REFERENCE_WHITE:.4f}:desat=0"
    return f"{linear},zscale=p=bt709,{tone},zscale=t={curve},format={planes}"


def describe(path: Path, *, pixels: int = SOURCE_PIXELS, seconds: float = SECONDS) -> Stream:
    """Raises MediaUnreadable if the file is not a video, is of an unaccepted kind, or has frames of more than
    `pixels`."""
    if not path.is_file():
        raise MediaUnreadable("unsupported_video_format", "the video is not a file")
    if (_kind(path) or "").endswith(("AVIF", "HEIC")):  # ffmpeg would decode only one tile or one frame
        raise _unreadable(path)
    words = _output_of(path, [], pixels, seconds).stderr.decode("utf-8", "replace")
    found = _VIDEO.search(words)
    if "max pixel count" in words:
        raise too_large(pixels)
    shape = _PIXELS.search(found["rest"]) if found else None
    if found is not None and "not on whitelist" in words and (shape is None or shape["format"] == "none"):
        raise MediaUnreadable(
            "unsupported_video_format", f"a video encoded as {found['codec']} is not read; H.264 is the safest"
        )
    if found is None or shape is None or int(shape["width"]) * int(shape["height"]) == 0:
        if found is None and _SOUND.search(words):
            raise MediaUnreadable(
                "unsupported_video_format", f"the file is sound without a video; {kinds.CLIPS} are read"
            )
        raise _unreadable(path)
    width, height = int(shape["width"]), int(shape["height"])
    if width * height > pixels:
        raise too_large(pixels, f"{width}x{height}")
    matrix, primaries, transfer = _tags(shape["tags"] or "")
    after = words[found.end() :].split("\n  Stream #")[0]
    alpha = bool(_ALPHA.match(shape["format"])) or (found["codec"] in _WITH_ALPHA and bool(_ALPHA_MODE.search(after)))
    return Stream(words, found["codec"], shape["format"], matrix, primaries, transfer, width, height, alpha)


def check_length(path: Path, stream: Stream, most: float) -> None:
    """Raises MediaUnreadable if the video lasts longer than `most` seconds. The sound track does not count."""
    if stated := _DURATION.search(stream.words):
        hours, minutes, seconds = stated.groups()
        if int(hours) * 3600 + int(minutes) * 60 + float(seconds) <= most:
            return
    output = ["-map", "0:V:0", "-c", "copy", "-t", str(most + 1), "-f", "null", "-progress", "pipe:1", "-"]
    done = _output_of(path, output, SOURCE_PIXELS, SECONDS)
    if times := _OUT_TIME.findall(done.stdout.decode("utf-8", "replace")):
        check_seconds(int(times[-1]) / 1e6, most)


def check_seconds(seconds: float, most: float) -> None:
    """Raises MediaUnreadable if `seconds` exceeds `most`."""
    if seconds > most + 0.05:  # clocks of containers are rounded
        message = f"the video lasts {seconds:.2f} s; at most {most:g} s are read"
        raise MediaUnreadable("video_duration_too_long", message)


def too_large(pixels: int, size: str = "") -> MediaUnreadable:
    found = f"are {size}" if size else "are too large"
    return MediaUnreadable(
        "file_too_large", f"the video's frames {found}; at most {pixels / 1e6:g} million pixels each are read"
    )


def padded(pixels: int) -> int:
    """The most pixels that a decoder may count for a frame of `pixels`, including padding."""
    return 2 * pixels + 256 * 256 if pixels < _PADDED else pixels + _PADDED


def arguments(path: Path, stream: Stream, pixels: int) -> list[str]:
    """The ffmpeg command up to and including the input."""
    limits = ["-max_pixels", str(padded(pixels))]  # `describe` has checked the exact size
    # NOTE: only the first of zscale's threads adapts to another white; the rows of the other threads stay unchanged
    alone = ["-filter_threads", "1"] if stream.primaries in _OTHER_WHITE else []
    return [ffmpeg(), "-hide_banner", "-nostats", "-nostdin", *limits, *alone, *stream.decoder, *guarded_input(path)]


def run(command: list[str], seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run the command. Raises MediaUnreadable if the command takes longer than `seconds`."""
    alone = threading.active_count() == 1  # code between fork and exec is safe only with a single thread
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            preexec_fn=child.die_with_parent if alone else None,
        )
    except subprocess.TimeoutExpired:
        raise MediaUnreadable("unsupported_video_format", "the video takes too long to decode") from None


def _output_of(path: Path, output: list[str], pixels: int, seconds: float) -> subprocess.CompletedProcess[bytes]:
    limits = ["-threads", "2", "-max_pixels", str(pixels + _PADDED)]
    return run([ffmpeg(), "-hide_banner", "-nostats", "-nostdin", *limits, *guarded_input(path), *output], seconds)


def _unreadable(path: Path) -> MediaUnreadable:
    kind = _kind(path)
    found = f"the file is {kind} that cannot be decoded" if kind else "the file is not a video that can be decoded"
    return MediaUnreadable("unsupported_video_format", f"{found}, or it is damaged; {kinds.CLIPS} are read")


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        return kinds.named(file.read(kinds.HEAD))


def _tags(words: str) -> tuple[str, str, str]:
    """Matrix, primaries and transfer from ffmpeg's words, such as "tv, bt2020nc/bt2020/smpte2084, progressive". If the
    words name only one value (such as "bt709"), it is the value of all three."""
    for word in words.split(", "):
        if word.count("/") == 2:
            matrix, primaries, transfer = word.split("/")
            return matrix, primaries, transfer
        if word in ("bt709", *_WIDE):
            return word, word, word
    return "unknown", "unknown", "unknown"


def _is_rgb(name: str) -> bool:
    return name.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "pal8", "x2"))


def _fit(pixels: int, side: int | None) -> str:
    most = f"sqrt({pixels}/(iw*ih))" if side is None else f"min(sqrt({pixels}/(iw*ih)),{side}/max(iw,ih))"
    share = f"if(gt(iw*ih,{pixels}),{most},1)"
    return f"scale=w='max(1,trunc(iw*{share}))':h='max(1,trunc(ih*{share}))':flags=area+{_EXACT}"


def _shrink(side: int) -> str:
    wide = "gt(iw,ih)"
    return f"scale=w='if({wide},min(iw,{side}),-1)':h='if({wide},-1,min(ih,{side}))':flags=area+{_EXACT},setsar=1"
