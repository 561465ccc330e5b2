"""What kind of media bytes are, by how they begin."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_BYTES = 512
"""So many from the start are enough."""


@dataclass(frozen=True)
class Kind:
    """A kind of media.

    Attributes:
        name: As people say.
        content_type: As `image/png`.
        extension: As `png`.
        checked: Whether pictures of it can be decoded here, and so be known to be whole.
    """

    name: str
    content_type: str
    extension: str
    checked: bool = False


PNG = Kind("PNG", "image/png", "png", checked=True)
JPEG = Kind("JPEG", "image/jpeg", "jpg", checked=True)
WEBP = Kind("WebP", "image/webp", "webp", checked=True)
GIF = Kind("GIF", "image/gif", "gif", checked=True)
AVIF = Kind("AVIF", "image/avif", "avif", checked=True)
BMP = Kind("BMP", "image/bmp", "bmp", checked=True)
MP4 = Kind("MP4", "video/mp4", "mp4")
HEIC = Kind("HEIC", "image/heic", "heic")

_STARTS = {
    b"\x89PNG\r\n\x1a\n": PNG,
    b"\xff\xd8\xff": JPEG,
    b"GIF87a": GIF,
    b"GIF89a": GIF,
    b"\xff\x0a": Kind("JPEG XL", "image/jxl", "jxl"),
    b"\0\0\0\x0cJXL \r\n\x87\n": Kind("JPEG XL", "image/jxl", "jxl"),
    b"\0\0\0\x0cjP  \r\n\x87\n": Kind("JPEG 2000", "image/jp2", "jp2"),
    b"\xff\x4f\xff\x51": Kind("JPEG 2000", "image/j2c", "j2c"),
    b"II\xbc\x01": Kind("JPEG XR", "image/jxr", "jxr"),
    b"II*\0": Kind("TIFF", "image/tiff", "tiff"),
    b"MM\0*": Kind("TIFF", "image/tiff", "tiff"),
    b"II+\0": Kind("TIFF", "image/tiff", "tiff"),
    b"MM\0+": Kind("TIFF", "image/tiff", "tiff"),
    b"\0\0\1\0": Kind("ICO", "image/vnd.microsoft.icon", "ico"),
    b"8BPS\0\1": Kind("Photoshop", "image/vnd.adobe.photoshop", "psd"),
    b"\0\0\1\xba": Kind("MPEG", "video/mpeg", "mpg"),
    b"0&\xb2u\x8ef\xcf\x11": Kind("Windows Media", "video/x-ms-asf", "asf"),
    b"FLV\x01": Kind("Flash video", "video/x-flv", "flv"),
    b"OggS": Kind("Ogg", "application/ogg", "ogg"),
}
_EBML = b"\x1aE\xdf\xa3"
_BRANDS = (
    # In this order, as a file says several and the first may be a common one.
    (re.compile(rb"avi[fs]"), AVIF),
    (re.compile(rb"crx "), Kind("Canon raw", "image/x-canon-cr3", "cr3")),
    (re.compile(rb"he[iv][cxms]"), HEIC),
    (re.compile(rb"mif[12]|msf1"), Kind("HEIF", "image/heif", "heif")),
    (re.compile(rb"qt  "), Kind("QuickTime", "video/quicktime", "mov")),
)
_LATER_BOXES = (b"styp", b"moof", b"sidx")
"""What a part of a film begins with."""
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"pnot")
"""What films begin with that were made before `ftyp` was."""


def kind_of(head: bytes) -> Kind | None:
    """The kind of media that bytes are, if they begin as one does.

    Args:
        head: The first `HEAD_BYTES` of them.
    """
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": Kind("AVI", "video/x-msvideo", "avi")}.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return BMP
    if head[:4] == _EBML:
        webm = b"webm" in head[:64]
        return Kind(
            *(("WebM", "video/webm", "webm") if webm else ("Matroska", "video/x-matroska", "mkv"))
        )
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, length - 3, 4))]
        for pattern, kind in _BRANDS:
            if any(pattern.fullmatch(brand) for brand in brands):
                return kind
        return MP4
    if head[4:8] in _LATER_BOXES and head[:2] == b"\0\0":
        return MP4
    if head[:1] == head[188:189] == head[376:377] == b"G":
        return Kind("MPEG", "video/mp2t", "ts")
    if head[4:8] in _QUICKTIME_ATOMS and head[:2] == b"\0\0":
        return Kind("QuickTime", "video/quicktime", "mov")
    return None


def no_kind(head: bytes) -> str:
    """Say what bytes are that are no kind of media."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        return "the body is an HTML page, not a picture"
    if start.startswith((b"{", b"[")):
        return "the body is JSON, not a picture"
    return "the body is no picture of a known kind (PNG, JPEG, WebP, GIF, AVIF)"
