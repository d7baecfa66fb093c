"""Tell the kind of a file by its first bytes, for the message that refuses the file. Also names the accepted kinds."""

from __future__ import annotations

import re

PICTURES = "PNG, JPEG, WebP, GIF, AVIF, HEIC, TIFF, BMP and JPEG 2000"
CLIPS = "MP4, MOV, 3GP, WebM, MKV, AVI, MPEG, TS, FLV, WMV, OGV, MXF, GIF, APNG and animated WebP"
HEAD = 4096  # bytes that are examined

_KINDS = [
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        (rb"\x89PNG\r\n\x1a\n.{0,4000}acTL", "an animated PNG"),
        (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"GIF8[79]a", "a GIF"),
        (rb"RIFF.{4}WEBP", "a WebP image"),
        (rb"RIFF.{4}AVI ", "an AVI video"),
        (rb"RIFF.{4}WAVE", "a WAV sound"),
        (rb"BM.{12}[\x0c-\x7c]\0\0\0", "a BMP image"),
        (rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)", "a TIFF image or a camera's raw file"),
        (rb".{4}ftypavif", "an AVIF"),
        (rb".{4}ftypavis", "an animated AVIF"),
        (rb".{4}ftyp(hei|mif1)", "a HEIC"),
        (rb".{4}ftyp(hev|msf1)", "an animated HEIC"),
        (rb".{4}ftypcrx ", "a camera's raw file"),
        (rb".{4}ftypM4[AB]", "an M4A sound"),
        (rb".{4}ftypqt", "a MOV video"),
        (rb".{4}ftyp3g", "a 3GP video"),
        (rb".{4}ftyp", "an MP4 video"),
        (rb".{4}(moov|mdat|wide|free)", "a MOV video"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
        (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image"),
        (rb"\x1aE\xdf\xa3", "a WebM or MKV video"),
        (rb"OggS", "an Ogg file"),
        (rb"FLV\x01", "an FLV video"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMV video"),
        (rb"\x06\x0e\x2b\x34\x02\x05\x01", "an MXF video"),
        (rb"\0\0\x01\xba|\0\0\x01\xb3", "an MPEG video"),
        (rb"\x47.{187}\x47", "a TS video"),
        (rb"YUV4MPEG2 ", "a Y4M video"),
        (rb"nut/multimedia container", "a NUT video"),
        (rb"\x1f\x07\0[\x3f\xbf]", "a bare DV video"),
        (rb"\0\0(\0\x01|\x01)[\x09\x27\x67\x40\x46]", "a bare H.264 or HEVC video"),
        (rb"ID3|\xff[\xf2\xf3\xfb]", "an MP3 sound"),
        (rb"fLaC", "a FLAC sound"),
        (rb"8BPS", "a Photoshop document"),
        (rb"\x76\x2f\x31\x01", "an OpenEXR image"),
        (rb"#\?R(ADIANCE|GBE)", "a Radiance HDR image"),
        (rb"\0\0\x01\0[^\0]", "an ICO image"),
        (rb"icns", "an ICNS image"),
        (rb"qoif", "a QOI image"),
        (rb"DDS ", "a DDS image"),
        (rb"P[1-7][\s]", "a PNM image"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document"),
        (rb"%PDF-", "a PDF document"),
        (rb"PK\x03\x04", "a ZIP archive"),
        (rb"\x1f\x8b\x08", "a gzip archive"),
        (rb"(\xef\xbb\xbf)?\s*#EXTM3U", "an HLS playlist"),
        (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg", "an SVG drawing"),
        (rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head|<body)", "an HTML page"),
        (rb"\s*<\?xml", "an XML document"),
        (rb"\s*[{\[]\s*[\"{\[\]}]", "a JSON document"),
    )
]  # fmt: skip


def named(head: bytes) -> str | None:
    """The kind of a file that starts with `head`, such as "a JPEG image"; None if the kind is unknown."""
    return next((name for pattern, name in _KINDS if pattern.match(head[:HEAD])), None)
