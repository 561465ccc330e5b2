"""How a picture is turned, by what its camera or editor noted."""

from __future__ import annotations

import struct

from PIL import Image

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What EXIF's orientation asks for."""


def upright(image: Image.Image, turned: int) -> Image.Image:
    """The picture as a person sees it; the same if it is not turned."""
    return image.transpose(UPRIGHT[turned]) if turned in UPRIGHT else image


def orientation(exif: bytes) -> int:
    """How a picture is turned, by EXIF; 1, upright, if that does not say so."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
            if tag == 0x0112:
                return value if value in UPRIGHT else 1
    except struct.error:
        pass
    return 1
